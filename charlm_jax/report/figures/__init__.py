"""Figures made with matplotlib."""
