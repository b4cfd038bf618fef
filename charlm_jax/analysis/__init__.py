"""Analysis of trained models: calibration, context use, activations, memorization, text."""
