"""The section on units says how well they were picked, and how well they do elsewhere."""

import re

import numpy as np

from charlm_jax.analysis.unit_ranking import UnitPick, UnitRanking
from charlm_jax.comparison.units import RunUnits
from charlm_jax.report.html.page import block_html
from charlm_jax.report.unit_text import unit_blocks

TEXT = "a <b>\n"


def make_pick(unit: int, *, is_high: bool) -> UnitPick:
    value_T = np.linspace(0.0, 1.0, len(TEXT))
    return UnitPick(
        "inside quotation marks",
        "layer_2",
        "gru",
        "hidden",
        unit=unit,
        is_high=is_high,
        picked_auc=0.987,
        tested_auc=0.654,
        symbol_auc=0.321,
        places=1234,
        low=0.0,
        high=1.0,
        shown=range(len(TEXT)),
        value_T=value_T,
        holds_T=value_T > 0.5,
    )


def test_what_was_picked_and_what_was_judged_are_told_apart() -> None:
    picks = [make_pick(7, is_high=True), make_pick(8, is_high=False)]
    ranking = UnitRanking(512, picked_characters=6000, tested_characters=5000, picks=picks)
    found = RunUnits("<i>", "the training text", "the held-out text", ranking, [TEXT, TEXT])
    page = "".join(map(block_html, unit_blocks(found)))
    for words in (
        "Each of the 512 recurrent units of &lt;i&gt;",
        "6,000 characters of the training text",
        "5,000 characters of the held-out text, which played no part in the choice",
        "unit 7 (hidden) of layer 2 (gru), coloured where it is high",
        "unit 8 (hidden) of layer 2 (gru), coloured where it is low",
    ):
        assert words in page
    columns = re.findall(r"<th scope=\"col\"[^>]*>(.*?)</th>", page)
    cells = re.findall("<td[^>]*>(.*?)</td>", page)[: len(columns) - 1]
    assert dict(zip(columns[2:], cells[1:], strict=True)) == {
        "AUC, text of the choice": "98.7 %",
        "AUC, other text": "65.4 %",
        "last character alone": "32.1 %",
        "places": "1,234",
    }
    assert "The column “last character alone” is what" in page
    rising, falling = re.findall(r'<div class="heat".*?</div>', page, re.DOTALL)
    looks = ['"h0"', '"h2"', '"h3"', '"h5 u"', '"h6 u"', '"h8 u"']
    assert re.findall(r'class=("h\d.*?")', rising) == looks
    assert [look[:3] for look in re.findall(r'class=("h\d.*?")', falling)] == [
        f'"h{8 - int(look[2])}' for look in looks
    ]
    assert "&lt;</span>" in rising and "<b>" not in page
