"""Measures of generated data: likelihood, sample quality, memorisation; none needs a download."""
