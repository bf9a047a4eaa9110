"""Runs set side by side: `python -m gen.compare`."""
