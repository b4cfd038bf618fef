"""Ranking of units: the best is found, and scored on text that it was not picked on."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charlm_jax.analysis.unit_ranking import (
    PROPERTIES,
    UnitRanking,
    area_under_curve,
    cut_pieces,
    inside_quotation,
    rank_units,
)
from charlm_jax.models import LanguageModel, build_model
from tests.conftest import make_model_config

SYMBOLS = '\n "abc'
LENGTH, UNITS = 120, 6
KINDS = ("lstm", "attention", "gru")


def test_an_auc_is_the_share_of_pairs_in_order() -> None:
    random = np.random.default_rng(0)
    values_NU = random.integers(0, 4, size=(40, 700)).astype(np.float32)  # many ties
    holds_N = random.random(40) < 0.3
    more = values_NU[holds_N][:, None] - values_NU[~holds_N][None]
    expected_U = (more > 0).mean((0, 1)) + (more == 0).mean((0, 1)) / 2
    np.testing.assert_allclose(area_under_curve(values_NU, holds_N), expected_U, rtol=1e-12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('a "bc" d', "00111000"),
        ("«a» “b” „c”", "11001100110"),
        ("„a“ „b“", "1100110"),
        ("»a« b »c«", "110000110"),
        ("« a » b", "1111000"),
        ("“a\n\nb", "11100"),  # a blank line ends it
        ('"a\n\n"b" c', "111011000"),
        ("it's", "0000"),
    ],
)
def test_a_quotation_is_open_from_its_mark_to_the_next(text: str, expected: str) -> None:
    assert "".join(map(str, inside_quotation(text).astype(int))) == expected


def test_a_property_of_what_comes_next_is_that_of_the_place_before() -> None:
    text = "a b\nc \n"
    for name, symbol in (("the line ends next", "\n"), ("a space comes next", " ")):
        expected = [text[n + 1 : n + 2] == symbol for n in range(len(text))]
        assert PROPERTIES[name](text, "characters").tolist() == expected


def test_pieces_are_disjoint_of_one_length_and_begin_at_paragraphs() -> None:
    part = (range(3, 40), range(50, 55), range(60, 100))
    for text in ("a" * 100, "abc\n\n" * 20, "\n" * 100):
        for length in (1, 4, 10):
            for count in (1, 2, 5, 100):
                pieces = cut_pieces(text, part, length, count)
                places = [place for piece in pieces for place in [*piece, piece.stop]]
                assert {n for x in part for n in x} >= set(places)
                assert len({n for x in pieces for n in x}) == length * len(pieces)
                assert {len(piece) for piece in pieces} == {length}
                assert len(pieces) == min(count, len(cut_pieces(text, part, length, 100)))
                if text[0] == "a" and text[3] == "\n" and length == 10:
                    starts = [text[x.start - 2 : x.start] for x in pieces]
                    assert starts.count("\n\n") >= len(pieces) - 1  # the last has no room
    assert cut_pieces("a" * 100, part, 40, 3) == []


def text_of(characters: int, seed: int) -> str:
    random = np.random.default_rng(seed)
    words = ("ab", "c", '"a b c"', "abc\n", "ca", "\n")
    text = " ".join(words[n] for n in random.integers(len(words), size=characters))
    return text[:characters]


TEXT = text_of(12 * LENGTH, 0)


@cache
def model(*kinds: str) -> LanguageModel:
    return build_model(make_model_config(*kinds, hidden_size=UNITS, heads=2), len(SYMBOLS))


@cache
def ranking(*kinds: str, text: str = TEXT) -> UnitRanking | None:
    params = jax.jit(model(*kinds).init)(jax.random.key(0))
    ids_N = np.array([SYMBOLS.index(symbol) for symbol in text], np.uint8)
    pieces = cut_pieces(text, (range(len(text)),), LENGTH, 8)
    return rank_units(
        model(*kinds),
        params,
        text=text,
        ids_N=ids_N,
        picked=pieces[::2],
        tested=pieces[1::2],
        kinds=kinds,
    )


def test_a_pick_is_the_best_of_all_units_and_is_scored_elsewhere() -> None:
    """Against the activations that `inspect` returns, a piece at a time."""
    found = ranking(*KINDS)
    assert found is not None and found.units == 2 * UNITS
    params = jax.jit(model(*KINDS).init)(jax.random.key(0))
    pieces = cut_pieces(TEXT, (range(len(TEXT)),), LENGTH, 8)
    skipped = LENGTH // 4
    states, ids = {}, np.array([SYMBOLS.index(symbol) for symbol in TEXT])
    inspect = jax.jit(model(*KINDS).inspect)
    for piece in pieces:
        ids_BT = jnp.asarray(ids[piece.start : piece.stop])[None]
        seen = inspect(params, ids_BT, model(*KINDS).initial_state(1, 0))
        states[piece] = {"lstm": seen["layer_0"]["cell"][0], "gru": seen["layer_2"]["hidden"][0]}
    assert [pick.property_name for pick in found.picks] == [*PROPERTIES]
    for pick in found.picks:
        holds = {
            x: PROPERTIES[pick.property_name](TEXT[x.start : x.stop + 1], "characters")[skipped:-1]
            for x in pieces
        }
        aucs = {}
        for which, chosen in (("picked", pieces[::2]), ("tested", pieces[1::2])):
            holds_N = np.concatenate([holds[x] for x in chosen])
            for kind in ("lstm", "gru"):
                values = np.concatenate([states[x][kind][skipped:] for x in chosen])
                aucs[which, kind] = area_under_curve(values, holds_N)
        best = max(np.abs(aucs["picked", kind] - 0.5).max() for kind in ("lstm", "gru"))
        assert pick.picked_auc == pytest.approx(0.5 + best, abs=1e-6)
        assert (pick.layer, pick.kind, pick.array) in {
            ("layer_0", "lstm", "cell"),
            ("layer_2", "gru", "hidden"),
        }
        own, other = (aucs[which, pick.kind][pick.unit] for which in ("picked", "tested"))
        assert pick.is_high == (own >= 0.5)
        assert pick.tested_auc == pytest.approx(other if pick.is_high else 1 - other, abs=1e-6)
        (piece,) = (x for x in pieces[1::2] if x[skipped:] == pick.shown)
        value_T = states[piece][pick.kind][skipped:, pick.unit]
        value_T = np.tanh(value_T) if pick.kind == "lstm" else value_T
        np.testing.assert_allclose(pick.value_T, value_T, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(pick.holds_T, holds[piece])
        changes = [np.count_nonzero(np.diff(holds[x])) for x in pieces[1::2]]
        assert np.count_nonzero(np.diff(pick.holds_T)) == max(changes)


def test_strength_is_1_where_the_property_is_likeliest() -> None:
    found = ranking(*KINDS)
    assert found is not None
    for pick in found.picks:
        rises = pick._replace(is_high=True, value_T=np.array([pick.low, pick.high, 1e9]))
        assert rises.strength_T.tolist() == [0.0, 1.0, 1.0]
        assert rises._replace(is_high=False).strength_T.tolist() == [1.0, 0.0, 0.0]


def test_the_last_character_alone_is_scored_by_what_it_was_followed_by() -> None:
    """Every `b` here is before a space, and nothing else is: the character tells all."""
    text = "aacaab " * 200
    found = ranking(*KINDS[:1], text=text)
    assert found is not None
    (space,) = found.picks  # no line ends, no quotation
    assert space.property_name == "a space comes next" and space.symbol_auc == 1.0
    assert space.places == sum(
        text[n + 1] == " "
        for piece in cut_pieces(text, (range(len(text)),), LENGTH, 8)[1::2]
        for n in piece[LENGTH // 4 :]
    )


def test_without_recurrent_units_pieces_or_properties_there_is_no_ranking() -> None:
    assert ranking("attention") is None
    assert ranking("lstm", text="abc" * 300) is None
    assert ranking("lstm", text=TEXT[: LENGTH + 5]) is None


def test_quotations_of_bytes_are_those_of_their_characters() -> None:
    text = "à “oui” »non«"
    symbols = text.encode().decode("latin-1")
    found = PROPERTIES["inside quotation marks"](symbols, "bytes")
    pairs = zip(inside_quotation(text), text, strict=True)
    wanted = [holds for holds, character in pairs for _ in character.encode()]
    assert found.tolist() == wanted and any(wanted) and len(wanted) > len(text)
    assert PROPERTIES["a space comes next"](symbols, "bytes").sum() == text.count(" ")
