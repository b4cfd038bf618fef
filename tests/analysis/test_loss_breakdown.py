"""Every held-out character is in one bin and in one class, and they are the right ones."""

import itertools
import math
import string

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm_jax.analysis.loss_breakdown import (
    CLASSES,
    breakdown,
    character_classes,
    geometric_bins,
    positions_in_window,
)
from charlm_jax.core.errors import CharlmError
from charlm_jax.data.splits import Part
from charlm_jax.evaluation.bootstrap import mean_interval
from charlm_jax.evaluation.scoring import make_stream_scorer, make_window_scorer
from charlm_jax.models import LanguageModel

STRETCHES: Part = (range(0, 9), range(11, 24), range(37, 38), range(50, 60))


def _counting_model() -> LanguageModel:
    """On a text of zeros, a character costs as many nats as were read before it."""

    def apply(params: object, ids_BT: jax.Array, read_B: jax.Array, **_: object) -> tuple:
        length = ids_BT.shape[1]
        nll_BT = read_B[:, None] + jnp.arange(1.0, length + 1)[None, :]
        return jnp.stack([-nll_BT, jnp.log(-jnp.expm1(-nll_BT))], axis=-1), read_B + length

    return LanguageModel(
        init=lambda key: {},
        apply=apply,
        initial_state=lambda batch_size, context: jnp.zeros(batch_size),
        inspect=lambda *_: (),
        max_length=None,
        keeps_positions=False,
    )


@pytest.mark.core
@pytest.mark.parametrize("context", [1, 4, 9, 60])
def test_places_are_what_a_model_has_read_when_it_is_scored(context: int) -> None:
    model, ids_N = _counting_model(), jnp.zeros(60, jnp.uint8)
    read_N = make_window_scorer(model, context=context, batch_size=3)({}, ids_N, STRETCHES)
    p_N = positions_in_window(STRETCHES, context)
    assert p_N.shape == read_N.shape and p_N.max() == min(context, 13)
    np.testing.assert_allclose(read_N, p_N, atol=1e-4)
    if context > 13:
        np.testing.assert_allclose(
            make_stream_scorer(model, context=1)({}, ids_N, STRETCHES), p_N, atol=1e-4
        )


@pytest.mark.parametrize("longest", [*range(1, 70), 111_235])
def test_bins_cover_every_place_once_and_grow_evenly(longest: int) -> None:
    bins = geometric_bins(longest)
    covered = [place for first, last in bins for place in range(first, last + 1)]
    assert covered == list(range(1, longest + 1))
    assert all(first <= last for first, last in bins)
    assert bins[:4] == ((1, 1), (2, 2), (3, 3), (4, 4))[:longest]
    lasts = [last for _, last in bins[3:-1]]
    assert all(last / before in (4 / 3, 3 / 2) for before, last in itertools.pairwise(lasts))
    assert len(bins) <= 2 * math.log2(longest) + 2


def _letters(text: str, part: Part, unit: str = "characters") -> str:
    """The initials of the classes: f and l letters, space, punctuation, Capital, newline, byte."""
    classes_N = character_classes(text, part, unit=unit)
    assert classes_N.dtype == np.uint8
    return "".join("flspCnb"[index] for index in classes_N)


def test_the_classes_have_their_names() -> None:
    assert [name[0] for name in CLASSES] == list("flspcnb")


@pytest.mark.core
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I saw it.\n\nThen 12", "CsfllsflpnnClllspp"),
        ("don't Don’t rock'n'roll", "fllplsCllplsflllplpllll"),
        ("'tis ''em dogs' end", "pfllsppflsflllpsfll"),
        ("a1b x_y mcDonald OK", "fpfsfpfsflClllllsCC"),
        ("e\u0301te\u0301\u0302s e\u0301't E\u0301t", "fllllllsflplsCll"),
        ("\u0301a \u0301\u0301a", "pfsppf"),
        ("中文 字, שלום", "flsfpsflll"),
        ("\t\u00a0\u2003x\r\n", "sssfsn"),
        ("ǅem Ⅷ \U0001f642\ufe0f", "Cllspspp"),
    ],
)
def test_classes_by_hand(text: str, expected: str) -> None:
    assert len(text) == len(expected)
    part = (range(1, len(text) + 1),)
    assert _letters("\n" + text, part) == expected
    with pytest.MonkeyPatch.context() as patch:  # in pieces of two
        patch.setattr("charlm_jax.analysis.loss_breakdown._PIECE", 2)
        assert _letters("\n" + text, part) == expected


@pytest.mark.parametrize("piece", [1, 2, 1000])
def test_a_byte_is_of_the_class_of_its_character(
    piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "“Älter” don’t: naïve\u00a0Жук жук,\n日本🙂 e\u0301t"
    data = text.encode()
    monkeypatch.setattr("charlm_jax.analysis.loss_breakdown._PIECE", piece)
    by_character = _letters("\n" + text, (range(1, len(text) + 1),))
    expected = "".join(
        letter * len(symbol.encode()) for letter, symbol in zip(by_character, text, strict=True)
    )
    part = (range(1, len(data) + 1),)
    assert _letters("\n" + data.decode("latin-1"), part, "bytes") == expected
    stray = b"a\xe9b \xd0 \xe2\x80"  # Latin-1, and beginnings of characters
    assert _letters("\n" + stray.decode("latin-1"), (range(1, 9),), "bytes") == "fbfsbsbb"


def _one_by_one(text: str) -> str:
    """Whether the last character belongs to a word (w), is an apostrophe behind one (a) or else."""
    classes, state = "", "-"
    for symbol in text:
        is_letter, goes_on = symbol in string.ascii_letters + "中", state in "wa"
        if symbol == "\u0301":
            classes += "l" if state == "w" else "p"
            state = state if state == "w" else "-"
            continue
        if symbol in "ABC":
            classes += "C"
        elif is_letter:
            classes += "l" if goes_on else "f"
        else:
            classes += {"\n": "n", " ": "s"}.get(symbol, "p")
        state = "w" if is_letter else "a" if symbol in "'’" and state == "w" else "-"
    return classes


@given(st.text("abAB中\u0301''’ \n1.", min_size=2, max_size=40), st.data())
def test_classes_equal_those_of_one_character_after_another(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(1, len(text) - 1))
    stop = data.draw(st.integers(start, len(text)))
    part = (range(0, start), range(start, stop), range(stop, len(text)))
    assert _letters(text, part) == _one_by_one(text)[1:]
    assert _letters(text, part[1:2]) == _one_by_one(text)[start:stop]


@pytest.mark.core
def test_the_cells_are_the_means_of_their_characters() -> None:
    generator = np.random.default_rng(0)
    nll_SN, group_N = generator.random((3, 400)), generator.choice([0, 1, 3], 400)
    cells = breakdown(nll_SN, group_N.astype(np.uint8), ["a", "b", "none", "d"], block=50, seed=4)
    assert [cell.label for cell in cells] == ["a", "b", "d"]
    assert sum(cell.characters for cell in cells) == 400
    for cell, group in zip(cells, (0, 1, 3), strict=True):
        mask_N = group_N == group
        assert cell.characters == mask_N.sum()
        assert cell.interval == mean_interval(nll_SN, mask_N=mask_N, block=50, seed=4)
        assert cell.interval.mean == pytest.approx(nll_SN[:, mask_N].mean())


@pytest.mark.parametrize("groups", [[0, 1, 2], [0, -1, 0]])
def test_a_group_without_a_label_is_refused(groups: list[int]) -> None:
    with pytest.raises(CharlmError, match=r"group (2|-1) has no label: there are 2"):
        breakdown(np.ones((1, 3)), np.array(groups), ["a", "b"])


def test_a_range_of_nothing_is_refused() -> None:
    with pytest.raises(CharlmError, match="context=0"):
        positions_in_window(STRETCHES, 0)
    with pytest.raises(CharlmError, match="longest=0"):
        geometric_bins(0)
    with pytest.raises(CharlmError, match=r"context=2.5 is not allowed: it must be a whole number"):
        positions_in_window(STRETCHES, 2.5)  # type: ignore[arg-type]
    with pytest.raises(
        CharlmError, match=r"longest=20.0 is not allowed: it must be a whole number"
    ):
        geometric_bins(20.0)  # type: ignore[arg-type]


def test_numbers_may_be_those_of_numpy_and_groups_a_list() -> None:
    assert geometric_bins(np.int64(20)) == geometric_bins(20)  # type: ignore[arg-type]
    nll_SN, groups = np.array([[1.0, 2.0, 4.0]]), [0, 1, 1]
    cells = breakdown(nll_SN, groups, ["a", "b"])  # type: ignore[arg-type]
    assert cells == breakdown(nll_SN, np.array(groups), ["a", "b"])
    for wrong in ([], [0.0, 1.0, 1.0], [[0, 1, 1]]):
        with pytest.raises(CharlmError, match="must be a non-empty row of whole numbers"):
            breakdown(nll_SN, np.array(wrong), ["a", "b"])
