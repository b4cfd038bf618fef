"""The textbook chapter, figure by figure: run with `python -m experiments.tutorial`."""
