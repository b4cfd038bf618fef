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

# Contrast of the page's ink to each is at least 4.5, so text on them keeps its colour.
SURPRISE: Mapping[str, Sequence[str]] = {
    "light": (
        "#eff5fa",
        "#dfebf4",
        "#cbdfee",
        "#b5d1e7",
        "#9ec3df",
        "#86b3d6",
        "#6ea3cd",
        "#5a95c3",
    ),
    "dark": (
        "#17202a",
        "#192a3a",
        "#1b344a",
        "#1c3f5b",
        "#1d4a6c",
        "#1e567e",
        "#1f6290",
        "#206ea2",
    ),
}
"""One hue, by theme: level 1 to the highest."""

SECOND_HUE: Mapping[str, Sequence[str]] = {
    "light": (
        "#fbf2ea",
        "#f7e5d5",
        "#f2d6bd",
        "#edc6a3",
        "#e7b588",
        "#e0a46d",
        "#d89353",
        "#d0863f",
    ),
    "dark": (
        "#231d17",
        "#33271b",
        "#43311f",
        "#543b22",
        "#654526",
        "#774f29",
        "#83572c",
        "#8f5d2d",
    ),
}
"""A hue for values below 0, by theme, with the levels of `SURPRISE`."""
