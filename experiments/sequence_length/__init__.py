"""How long should training sequences be? Run with `python -m experiments.sequence_length`."""
