"""Layout and writing of figures, and axes labelled with characters."""

import io
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

# Without pyplot there is no global state, no window and no backend to choose: the file format
# determines the canvas, Agg for PNG.
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ft2font import FT2Font
from matplotlib.ticker import MaxNLocator

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.files import atomic_write
from charlm_jax.core.folders import FIGURE_MARK

DOTS_PER_INCH = 150
_PNG: Mapping[str, Any] = {"format": "png", "metadata": {"Software": FIGURE_MARK}}
_PIXELS_PER_INCH = 80  # in a notebook: fewer than the dots, so that a fine screen shows more detail

# A monospaced font, so that neighbours do not touch; matplotlib includes it.
_FONT = "DejaVu Sans Mono"
_SIGNS = {" ": "␣", "\n": "⏎", "\t": "⇥"}

_MAX_SIZE, _MIN_SIZE = 9.0, 4.0  # points
_POINTS = 72.0  # per inch


class InlineFigure(Figure):
    """A figure that a notebook shows by itself, with or without `%matplotlib inline`."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        image = io.BytesIO()
        self.savefig(image, **_PNG)
        width, height = (round(_PIXELS_PER_INCH * inches) for inches in self.get_size_inches())
        return image.getvalue(), {"width": width, "height": height}


def save_figure(figure: Figure, path: Path | str) -> None:
    """Write a figure atomically, replacing an existing file.

    Args:
      figure: figure to write.
      path: file to write; its ending names the format, such as .png or .svg.

    Raises:
      CharlmError: the file cannot be written, or its ending is not a known format.
    """
    path = Path(path)
    image = io.BytesIO()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        ending = path.suffix.removeprefix(".") or "png"
        figure.savefig(image, **(_PNG if ending == "png" else {"format": ending}))
        atomic_write(path, image.getvalue())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise CharlmError(f"cannot write the figure {path}: {reason}") from error


def blank_figure(width: float, height: float) -> InlineFigure:
    """Return a white figure of a size in inches, for `add_axes`."""
    return InlineFigure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor="white")


def add_axes(figure: Figure, *, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes at a position in inches from the left and upper edges.

    matplotlib's automatic layouts measure every label, which takes seconds for hundreds of
    characters.
    """
    whole_width, whole_height = figure.get_size_inches()
    bottom = 1.0 - (top + height) / whole_height
    return figure.add_axes((left / whole_width, bottom, width / whole_width, height / whole_height))


def add_title(figure: Figure, title: str, *, size: float = 10.0) -> None:
    """Add a title of one or two lines at the top, without parsing dollars as mathematics."""
    y = 1.0 - 0.12 / figure.get_size_inches()[1]
    figure.text(0.5, y, title, ha="center", va="top", fontsize=size, parse_math=False)


def visible_symbol(symbol: str) -> str:
    """Return a sign for white space, the code point in hex if the font has no glyph, else itself.

    >>> [visible_symbol(symbol) for symbol in ("a", " ", "中")]
    ['a', '␣', '4e2d']
    """
    sign = _SIGNS.get(symbol, symbol)
    return sign if sign.isprintable() and ord(sign) in _glyphs() else f"{ord(symbol):x}"


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(FT2Font(findfont(FontProperties(family=_FONT))).get_charmap())


def label_characters(axis: Axis, symbols: str, *, inches: float) -> bool:
    """Label the ticks of an axis with the characters of a text, from position 0.

    If they would be too small to read, label positions instead.

    Args:
      axis: x or y axis.
      symbols: the text.
      inches: length of the axis.

    Returns:
      True if there was room for the characters.
    """
    size = min(_MAX_SIZE, 0.95 * _POINTS * inches / len(symbols))
    if size < _MIN_SIZE:
        axis.set_major_locator(MaxNLocator(nbins="auto", integer=True, steps=[1, 2, 5, 10]))
        axis.set_tick_params(labelsize=8)
        return False
    labels = [visible_symbol(symbol) for symbol in symbols]
    style: dict[str, Any] = {"fontfamily": _FONT, "fontsize": size, "parse_math": False}
    if isinstance(axis, XAxis) and any(len(label) > 1 for label in labels):
        style["rotation"] = 90.0
    axis.set_ticks(range(len(symbols)), labels, **style)
    axis.set_tick_params(length=0, pad=2)
    return True
