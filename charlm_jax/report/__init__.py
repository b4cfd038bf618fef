"""Figures and pages of results. The only place that imports matplotlib."""
