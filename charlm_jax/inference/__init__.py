"""A trained model: sample, score, inspect, evaluate, export."""
