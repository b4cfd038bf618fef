"""Tables in Markdown."""


def head(*cells: object) -> tuple[str, str]:
    """A table's first two lines."""
    return row(*cells), "|" + "---|" * len(cells)


def row(*cells: object) -> str:
    """Any further line."""
    return f"| {' | '.join(map(str, cells))} |"
