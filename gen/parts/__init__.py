"""Large sets, made in parts on disk that survive a kill: `gen.sample --parts`, `gen.encode`."""
