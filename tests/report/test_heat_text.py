"""A coloured text has one cell for every character, whatever it is."""

import html
import itertools
import re

import numpy as np
import pytest

from charlm_jax.report.html.heat_text import (
    LEVELS,
    HeatMap,
    difference_text,
    heat_blocks,
    heat_text,
    strength_text,
)

TEXT = "a b\n\t<\u2003é"


@pytest.mark.core
@pytest.mark.parametrize("nats", [0.0, 0.01, 2.0, 2.1, 9.0, np.nan])
def test_every_character_has_one_cell_and_white_ones_are_signs_where_they_surprise(
    nats: float,
) -> None:
    nll_N = np.full(len(TEXT), nats)
    shown = HeatMap("x", nll_N, "", predictions={}, notes={})
    for drawn in (
        heat_text(TEXT, shown, group="a"),
        difference_text(TEXT, nll_N, label="x", group="a"),
    ):
        assert str(drawn).count("<label") == len(TEXT)
        is_seen = nats > 3 * np.log(2)  # three bits
        assert str(drawn).count("<wbr") == 2 * is_seen  # behind the space and the tab
        assert [str(drawn).count(sign) for sign in "␣⇥"] == [is_seen] * 2


def test_a_strength_is_a_colour_of_every_character_and_a_mark_is_a_line() -> None:
    random = np.random.default_rng(0)
    text = "".join(random.choice([*TEXT], size=300))
    strength_N, is_marked_N = np.round(random.random(300)), random.random(300) < 0.5
    strength_N[:50] = np.linspace(0.0, 1.0, 50)
    drawn = str(strength_text(text, strength_N, is_marked_N, label="x"))
    stretches = re.findall(r'<span class="(\S+)( u)?">(.*?)</span>', drawn, re.DOTALL)
    assert all(a[:2] != b[:2] for a, b in itertools.pairwise(stretches))
    shown = [
        (symbol, look, bool(is_marked))
        for look, is_marked, part in stretches
        for symbol in html.unescape(part).replace("↵\n", "\n")
    ]
    levels = [f"h{round(LEVELS * strength)}" for strength in strength_N.tolist()]
    assert shown == [*zip(text, levels, is_marked_N.tolist(), strict=True)]


def test_the_keys_reach_every_character_and_each_has_a_name() -> None:
    nll_N = np.linspace(0.0, 9.0, len(TEXT))
    maps = [HeatMap(label, nll_N, "", predictions={}, notes={}) for label in ("x", "y")]
    groups = []
    for block in heat_blocks(TEXT, maps):
        cells = re.findall(
            r'<label [^>]*>(<input type=radio name=(\w+)(?: aria-label="(.+?)")?>)'
            r"(?:<i>)?(.*?)(?:</i>)?</label>",
            str(block),
            re.DOTALL,
        )
        if cells:
            assert len(cells) == str(block).count("<label") == len(TEXT)
            assert all(name or text.strip() for _, _, name, text in cells)
            names = [spoken for _, _, spoken, _ in cells if spoken]
            assert [name.partition(",")[0] for name in names] == [
                "space",
                "new line",
                "tab",
                "U+2003",
            ]
            assert all(re.fullmatch(r".*, [+-]?[\d.]+ bits.*", name) for name in names)
            lines = re.findall(r"<div>(.*?)</div>", str(block), re.DOTALL)
            assert [line.count("<label") for line in lines] == [4, 4]
            groups.append({group for _, group, _, _ in cells})
    assert len(groups) == 3 and all(len(names) == 1 for names in groups)
    assert len(set.union(*groups)) == 3  # the keys stay in one text
