"""A coloured text has one cell for every character, whatever it is."""

import numpy as np
import pytest

from charlm_jax.report.html.heat_text import difference_text, heat_text

TEXT = "a b\n\t<\u2003é"


@pytest.mark.core
@pytest.mark.parametrize("nats", [0.0, 0.01, 9.0, np.nan])
def test_every_character_has_one_cell_and_white_ones_are_signs_where_they_surprise(
    nats: float,
) -> None:
    nll_N = np.full(len(TEXT), nats)
    for drawn in (heat_text(TEXT, nll_N, label="x"), difference_text(TEXT, nll_N, label="x")):
        assert str(drawn).count("<span") == len(TEXT)
        is_seen = nats > 2
        assert str(drawn).count("<wbr") == 2 * is_seen  # behind the space and the tab
        assert [str(drawn).count(sign) for sign in "␣⇥"] == [is_seen] * 2
