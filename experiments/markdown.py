"""Markdown tables, and the format of intervals in their cells."""

import math
from collections.abc import Iterable, Sequence

from charlm_jax.evaluation.bootstrap import Difference


def table(columns: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table.

    >>> print(table(["model", "T"], [["lstm", 40]]))
    | model | T |
    |---|---|
    | lstm | 40 |
    """
    lines = [_line(columns), "|" + "---|" * len(columns), *map(_line, rows)]
    return "\n".join(lines)


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def signed(difference: Difference) -> str:
    """Return a difference and its 95 % interval, with explicit signs.

    >>> signed(Difference(0.0112, 0.0007, 0.0218))
    '+0.0112 [+0.0007, +0.0218]'
    >>> signed(Difference(0.0112, -math.inf, math.inf))
    '+0.0112'
    """
    mean = f"{difference.mean:+.4f}"
    if not math.isfinite(difference.low):
        return mean
    return f"{mean} [{difference.low:+.4f}, {difference.high:+.4f}]"
