"""Character-level language models in JAX and Flax: train on a book, sample, and measure."""

__version__ = "0.1.0"
