"""What does the scale factor do? Run with `python -m experiments.scale_factor`."""
