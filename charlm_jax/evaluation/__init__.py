"""Evaluation: held-out loss under a named protocol, bootstrap intervals and baselines."""

from charlm_jax.evaluation.protocol import EvalProtocol, Sliding, Stream, Window

__all__ = ["EvalProtocol", "Sliding", "Stream", "Window"]
