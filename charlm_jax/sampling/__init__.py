"""Logits to text: categorical sampling, truncation policies, decoding, stop strings."""

from charlm_jax.sampling.params import SamplingParams

__all__ = ["SamplingParams"]
