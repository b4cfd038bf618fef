"""Logits to text: categorical sampling, truncation policies, decoding, stop strings."""
