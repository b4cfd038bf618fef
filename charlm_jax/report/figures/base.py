"""Layout and writing of figures, and axes labelled with characters."""

import io
import warnings
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

# Without pyplot there is no global state, no window and no backend to choose: the file format
# determines the canvas, Agg for PNG.
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font_names
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.files import atomic_write, user_path
from charlm_jax.core.folders import FIGURE_MARK

DOTS_PER_INCH = 150
_PNG: Mapping[str, Any] = {"format": "png", "metadata": {"Software": FIGURE_MARK}}
_PIXELS_PER_INCH = 80  # in a notebook: fewer than the dots, so that a fine screen shows more detail

# A monospaced font, so that neighbours do not touch; matplotlib includes it.
_FONT = "DejaVu Sans Mono"
# Bundled fonts that have a box, or a letter of mathematics, in place of another script's character.
_NOT_FOR_TEXT = ("Last Resort", "STIXNonUnicode", "STIXSize", "cm")

_SIGNS = {" ": "␣", "\n": "⏎", "\t": "⇥"}

_MAX_SIZE, _MIN_SIZE = 9.0, 4.0  # points
_POINTS = 72.0  # per inch


class InlineFigure(Figure):
    """A figure that a notebook shows by itself, with or without `%matplotlib inline`."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        width, height = (round(_PIXELS_PER_INCH * inches) for inches in self.get_size_inches())
        return _image(self, "png"), {"width": width, "height": height}


def _image(figure: Figure, kind: str) -> bytes:
    """Return a figure as a file; characters that its fonts lack are taken from other fonts."""
    for text in figure.findobj(Text):
        families = _families(text.get_text(), findfont(text.get_fontproperties()))
        if families:
            text.set_fontfamily([*text.get_fontfamily(), *families])
    image = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(image, **(_PNG if kind == "png" else {"format": kind}))
    return image.getvalue()


def save_figure(figure: Figure, path: Path | str) -> None:
    """Write a figure atomically, replacing an existing file.

    Args:
      figure: figure to write.
      path: file to write; its ending names the format, such as .png or .svg.

    Raises:
      CharlmError: the file cannot be written, or its ending is not a known format.
    """
    path = user_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, _image(figure, path.suffix.removeprefix(".") or "png"))
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
    """Return a sign for white space, the code point in hex if no font has a glyph, else itself.

    >>> [visible_symbol(symbol) for symbol in ("a", " ", "א", chr(0xE000))]
    ['a', '␣', 'א', 'e000']
    """
    sign = _SIGNS.get(symbol, symbol)
    font = findfont(FontProperties(family=_FONT))
    has_glyph = ord(sign) in _glyphs(font) or _families(sign, font)
    return sign if sign.isprintable() and has_glyph else f"{ord(symbol):x}"


def _families(text: Iterable[str], font: str) -> list[str]:
    """Return installed families that have the characters of a text which a font file lacks.

    DejaVu Sans, which matplotlib includes, comes before others, and monospaced ones next.
    """
    missing = {ord(sign) for sign in text if sign.isprintable()} - _glyphs(font)
    found = []
    for name in _installed() if missing else ():
        glyphs = _glyphs(findfont(FontProperties(family=name)))
        if missing & glyphs:
            found.append(name)
            missing -= glyphs
        if not missing:
            break
    return found


@cache
def _installed() -> tuple[str, ...]:
    names = [name for name in get_font_names() if not name.startswith(_NOT_FOR_TEXT)]
    return tuple(sorted(names, key=lambda name: (name != "DejaVu Sans", "Mono" not in name, name)))


@cache
def _glyphs(font: str) -> frozenset[int]:
    try:
        face = FT2Font(font)
    except RuntimeError:  # a file that FreeType cannot read
        return frozenset()
    return frozenset(face.get_charmap()) if face.scalable else frozenset()


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
