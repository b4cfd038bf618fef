"""The textbook's chapter, figure by figure: run with `python -m experiments.tutorial`."""
