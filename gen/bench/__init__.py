"""`python -m gen.bench`: speed beside its bound."""
