"""Colours of series in pages and figures.

Source: Okabe and Ito 2008, "Color Universal Design": distinguishable in all common kinds of colour
blindness.
"""

from collections.abc import Mapping, Sequence

BLUE = "#0072b2"
VERMILION = "#d55e00"
GREEN = "#009e73"
PURPLE = "#cc79a7"
ORANGE = "#e69f00"
SKY_BLUE = "#56b4e9"
YELLOW = "#f0e442"
GREY = "#666666"
DARK_GREY = "#333333"  # in place of their black, which is the colour of text

FIGURE_SERIES: Sequence[str] = (BLUE, VERMILION, GREEN, PURPLE, DARK_GREY, ORANGE, SKY_BLUE)
"""Series of a matplotlib figure, in order."""

# A page's lines are thinner than a figure's, so each colour needs a contrast of 3 or more to the
# page. Orange and sky blue have less on white; two purples (our choice) replace them.
PAGE_SERIES: Mapping[str, Sequence[str]] = {
    "light": (BLUE, VERMILION, GREEN, PURPLE, DARK_GREY, "#4a00bb", "#9167ff"),
    "dark": (SKY_BLUE, ORANGE, GREEN, PURPLE, "#f0f0f0", VERMILION, YELLOW),
}
"""Series of a page by theme, in order; both themes have the same number."""
