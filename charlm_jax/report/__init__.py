"""Plain data to HTML pages and matplotlib figures; computes nothing."""

from charlm_jax.report.html.page import Picture, Section, Table, write_page

__all__ = ["Picture", "Section", "Table", "write_page"]
