"""What does the scale factor do? The parts of experiments/scale_factor.py."""
