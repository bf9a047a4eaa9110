"""Decoding loops, and what they share: plans, noise, token sampling, guidance."""
