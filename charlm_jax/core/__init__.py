"""Foundations: errors, shape letters, PRNG streams, atomic files, names of tree leaves."""
