"""Comparison of runs: groups of seeds, intervals, baselines, and the data of a report."""
