"""Runs side by side: groups of seeds, intervals, baselines; what a report states, as data."""
