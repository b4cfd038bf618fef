"""Rendering of plain data as HTML pages and matplotlib figures, without any computation."""

from charlm_jax.report.html.page import Picture, Section, Table, write_page

__all__ = ["Picture", "Section", "Table", "write_page"]
