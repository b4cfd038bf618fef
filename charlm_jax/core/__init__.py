"""Foundations: errors, shape letters, PRNG streams, atomic files, tree utilities."""
