"""How long should training sequences be? The parts of experiments/sequence_length.py."""
