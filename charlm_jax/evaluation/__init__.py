"""How good a model is: loss under a named protocol, bootstrap intervals, baselines."""
