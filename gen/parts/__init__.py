"""Large sets of samples, made in parts by many devices: what `gen.sample --parts` does."""
