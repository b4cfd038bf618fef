"""The colours of a page, in a light and a dark theme, as CSS variables.

Series are Okabe and Ito's (2008), apart in all common kinds of colour blindness, some of them
darker or lighter to stand out from the background. Heat is cividis (Nuñez, Anderton and Renslow
2018), and differences go from blue to orange.
"""

from collections.abc import Mapping, Sequence

Colour = tuple[float, float, float]
"""Red, green and blue, from 0 to 255."""

SERIES: Mapping[str, Sequence[str]] = {
    "light": ("#0072b2", "#d55e00", "#009e73", "#c4709f", "#333333", "#4a00bb", "#9167ff"),
    "dark": ("#56b4e9", "#e8762c", "#009e73", "#dd9bc2", "#f0f0f0", "#9a68fe", "#b2fdad"),
}
PLAIN: Mapping[str, Mapping[str, str]] = {
    "light": {
        "page": "#ffffff",
        "ink": "#1c1e21",
        "soft": "#5a6068",
        "line": "#d5d8dc",
        "box": "#f4f5f7",
        "link": "#00558a",
    },
    "dark": {
        "page": "#14161a",
        "ink": "#e6e8ea",
        "soft": "#a3a9b1",
        "line": "#3a3f46",
        "box": "#1e2126",
        "link": "#7cc4f0",
    },
}

LEVELS = 12
"""The highest level of heat; 0 is none. A difference has half as many on either side."""

_CIVIDIS = (
    *("#00224e", "#083370", "#35456c", "#4f576c", "#666970"),
    *("#7d7c78", "#948e77", "#aea371", "#c8b866", "#e5cf52", "#fee838"),
)
# The ends of the scale of differences: where the first is the better, and where the second is.
_ENDS = {"light": ("#a34700", "#00518a"), "dark": ("#ffa05c", "#6cc0ff")}


def parse(colour: str) -> Colour:
    """`#rrggbb` as three numbers."""
    red, green, blue = (float(int(colour[n : n + 2], 16)) for n in (1, 3, 5))
    return red, green, blue


def mix(a: str, b: str, share: float) -> str:
    """The colour between two, `share` of the way from a to b."""
    channels = (x + (y - x) * share for x, y in zip(parse(a), parse(b), strict=True))
    return "#" + "".join(f"{round(channel):02x}" for channel in channels)


def contrast(a: str, b: str) -> float:
    """How well one colour can be read on the other, from 1 to 21; 4.5 will do for text.

    Source: Web Content Accessibility Guidelines 2.2, "contrast ratio".
    """
    low, high = sorted((_luminance(a), _luminance(b)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    shares = [channel / 255 for channel in parse(colour)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in shares]
    return sum(weight * x for weight, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def heat(theme: str, level: int) -> str:
    """The background of a level of heat: away from the page's own, up to `LEVELS`."""
    share = level / LEVELS
    along = share if theme == "dark" else 1 - share
    place = along * (len(_CIVIDIS) - 1)
    below = min(int(place), len(_CIVIDIS) - 2)
    colour = mix(_CIVIDIS[below], _CIVIDIS[below + 1], place - below)
    return mix(PLAIN[theme]["page"], colour, min(1.0, 2.5 * share))


def difference(theme: str, level: int) -> str:
    """The background of a difference: its level is above 0 where the first is the better."""
    end = _ENDS[theme][level < 0]
    return mix(PLAIN[theme]["page"], end, abs(level) / (LEVELS // 2))


def on(background: str) -> str:
    """Black or white, whichever can be read the better."""
    return max(("#000000", "#ffffff"), key=lambda ink: contrast(ink, background))


def variables(theme: str) -> str:
    """Every colour of a theme, as CSS declarations."""
    found = {f"--{name}": colour for name, colour in PLAIN[theme].items()}
    found |= {f"--c{n}": colour for n, colour in enumerate(SERIES[theme])}
    grounds = {f"h{level}": heat(theme, level) for level in range(LEVELS + 1)}
    grounds |= {f"d{n}": difference(theme, n - LEVELS // 2) for n in range(LEVELS + 1)}
    for name, ground in grounds.items():
        found |= {f"--{name}": ground, f"--{name}t": on(ground)}
    return ";".join(f"{name}:{colour}" for name, colour in found.items())


def heat_rules() -> str:
    """The classes `h0` ... of heat and `d0` ... of differences, whose middle is no difference."""
    names = [f"{letter}{level}" for letter in "hd" for level in range(LEVELS + 1)]
    return "".join(f".{n}{{background:var(--{n});color:var(--{n}t)}}" for n in names)
