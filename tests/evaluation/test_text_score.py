"""A text's score: by character and by line, and what was expected in its place."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm_jax.core.errors import CharlmError
from charlm_jax.data.vocabulary import Vocabulary
from charlm_jax.evaluation import Sliding, Stream, Window
from charlm_jax.evaluation.protocol import build_protocol
from charlm_jax.evaluation.text_score import (
    TOP_PREDICTIONS,
    LineScore,
    TextScore,
    TopIds,
    name_predictions,
    score_lines,
    sort_by_surprisal,
    surprisal_difference,
    top_k_predictions,
)
from charlm_jax.inference.run import Run
from charlm_jax.models import build_model
from tests.conftest import make_tiny_config, quick_jit

CONTEXT = 8  # of the tiny config
SYMBOLS = '\n "&</>abcdehlortuw☃'
TEXT = 'hello <b>\n\nwater & "tea"\n  cold\nold </b>\n'


def random_run(name: str, symbols: str, seed: int, **changes: object) -> Run:
    """A run that was never trained: large random weights make all that was read matter."""
    config = make_tiny_config(**changes)
    vocabulary = Vocabulary("".join(sorted(symbols)))
    model = build_model(config.model, len(vocabulary))
    noise = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda x: jnp.asarray(noise.normal(size=x.shape), x.dtype), shapes)
    return Run(config, vocabulary, model, params, Path("runs", name), 7, "raw")


@pytest.fixture(scope="module")
def lstm() -> Run:
    return random_run("lstm", SYMBOLS, 0)


def _fake_score(text: str, places: Sequence[int]) -> TextScore:
    nll_N = np.random.default_rng(len(text)).exponential(2.0, len(places)).astype(np.float32)
    where_N = np.array(places, np.int64)
    return TextScore(nll_N, 0.0, 0.0, len(places), where_N, Stream())


@given(st.text("ab\n\u2028\x0b", min_size=1), st.data())
def test_the_lines_add_up_to_the_whole(text: str, data: st.DataObject) -> None:
    places = sorted(data.draw(st.sets(st.integers(0, len(text) - 1))))
    score = _fake_score(text, places)
    lines = score_lines(text, score)
    whole = "\n".join(line.text for line in lines)
    assert whole == text.removesuffix("\n") and not any("\n" in line.text for line in lines)
    assert [line.number for line in lines] == [*range(1, len(lines) + 1)]
    of_line: dict[int, list[float]] = {line.number: [] for line in lines}
    for place, nats in zip(places, score.nll_N.tolist(), strict=True):
        of_line[1 + text[:place].count("\n")].append(nats)
    for line in lines:
        nats = of_line[line.number]
        assert line.characters == len(nats)
        if nats:
            assert line.nats == pytest.approx(math.fsum(nats))
            assert line.bits_per_char == pytest.approx(np.mean(nats) / math.log(2))
        else:
            assert line.nats is None and line.bits_per_char is None
    assert math.fsum(line.nats or 0.0 for line in lines) == pytest.approx(score.nats)
    along_N = score.along(len(text))
    assert np.flatnonzero(~np.isnan(along_N)).tolist() == places
    np.testing.assert_array_equal(along_N[places], score.nll_N)
    np.testing.assert_array_equal(score.along(1), along_N[:1])


def test_the_most_surprising_lines_come_first() -> None:
    lines = [LineScore(*facts) for facts in ((1, "a", 0, None), (2, "b", 4, 8.0), (3, "c", 1, 3.0))]
    lines += [LineScore(4, "d", 2, 6.0), LineScore(5, "", 0, None), LineScore(6, "f", 1, 0.0)]
    assert [line.number for line in sort_by_surprisal(lines)] == [3, 4, 2, 6, 1, 5]


@pytest.mark.core
@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("lines", [["", "h", "@@", "he", "hello old h@t"], ["", "@e", ""]])
def test_separate_lines_are_scored_as_if_there_were_no_other(
    lstm: Run, lines: list[str], end: str
) -> None:
    text = "\n".join(lines) + end
    score = lstm.score(text, unknown="drop", separate_lines=True)
    assert score.separate_lines
    scored = score_lines(text, score)
    assert [line.text for line in scored] == lines[: len(scored)]
    for line in scored:
        alone = lstm.score(f"\n{line.text}\n", unknown="drop")
        assert line.characters == alone.characters == len(line.text.replace("@", "")) + 1
        assert line.nats == pytest.approx(alone.nats, rel=1e-5)
    with pytest.raises(CharlmError, match="too short to score"):
        lstm.score("", separate_lines=True)
    shown = [place for place in score.positions_N.tolist() if place < len(text)]
    assert shown == [place for place, symbol in enumerate(text) if symbol != "@"]


def test_separate_lines_without_a_newline_in_the_vocabulary() -> None:
    run = random_run("run", "abc", 0)
    score = run.score("ab\n\nc\ncab", separate_lines=True)
    assert score.positions_N.tolist() == [1, 7, 8]
    for line, alone in ((0, "ab"), (3, "cab")):
        expected = run.score(alone).nats
        assert score_lines("ab\n\nc\ncab", score)[line].nats == pytest.approx(expected, rel=1e-5)
    for text in ("a\nb\nc", "a\n\n\nb"):
        with pytest.raises(CharlmError, match="no line is long enough to score"):
            run.score(text, separate_lines=True)


@pytest.mark.parametrize("protocol", [Stream(), Stream(3), Stream(99), Window(4)], ids=str)
def test_separate_lines_under_every_protocol(protocol: Stream | Window) -> None:
    run = random_run("run", SYMBOLS, 0, **{"model.layers": ("attention", "lstm")})
    score = run.score(TEXT, protocol, separate_lines=True)
    predictions = run.top_predictions(TEXT, protocol, separate_lines=True)
    np.testing.assert_array_equal(predictions.positions_N, score.positions_N)
    for line in score_lines(TEXT, score):
        assert line.nats == pytest.approx(run.score(f"\n{line.text}\n", protocol).nats, rel=1e-4)
    with pytest.raises(CharlmError, match="mode=sliding reads across lines"):
        run.score(TEXT, Sliding(3), separate_lines=True)


def _rows(run: Run, ids_N: np.ndarray, mode: str) -> dict[int, np.ndarray]:
    """What each place is predicted from, by the rule's definition: logits_V, without batches."""
    size = {"stream": len(ids_N), "window": CONTEXT, "sliding": CONTEXT}[mode]
    read = quick_jit(lambda row_T: run.model.apply(run.params, row_T[None], initial)[0][0])
    initial = run.model.initial_state(1, 0)
    rows = {}
    for place in range(CONTEXT if mode == "sliding" else 1, len(ids_N)):
        start = place - CONTEXT if mode == "sliding" else (place - 1) // size * size
        row_T = np.resize(ids_N[start:], size).astype(np.int32)  # what lies behind is not seen
        rows[place] = (row_T, place - 1 - start)
    found = {row_T.tobytes(): np.asarray(read(row_T)) for row_T, _ in rows.values()}
    return {place: found[row_T.tobytes()][last] for place, (row_T, last) in rows.items()}


@pytest.mark.parametrize("mode", ["stream", "window", "sliding"])
def test_guesses_are_the_likeliest_of_the_models_own_probabilities(lstm: Run, mode: str) -> None:
    text = (TEXT * 20)[: 700 if mode == "stream" else 60]  # more than one piece of a stream
    ids_N = lstm.vocabulary.encode(text)
    protocol = build_protocol(mode, context=CONTEXT if mode != "stream" else None, targets=0)
    score, guesses = lstm.score(text, protocol), lstm.top_predictions(text, protocol)
    logits = _rows(lstm, ids_N, mode)
    assert guesses.positions_N.tolist() == score.positions_N.tolist() == [*logits]
    assert (
        guesses.probability_NG.shape == (len(logits), TOP_PREDICTIONS) == (len(guesses.symbols), 5)
    )
    for n, (place, logits_V) in enumerate(logits.items()):
        shares_V = np.asarray(jax.nn.softmax(jnp.asarray(logits_V)))
        assert score.nll_N[n] == pytest.approx(-np.log(shares_V[ids_N[place]]), abs=1e-4)
        best = np.sort(shares_V)[::-1][:TOP_PREDICTIONS]
        np.testing.assert_allclose(guesses.probability_NG[n], best, rtol=1e-4)
        told = shares_V[[lstm.vocabulary.symbols.index(s) for s in guesses.symbols[n]]]
        np.testing.assert_allclose(told, best, rtol=1e-4)


def test_a_small_alphabet_has_as_many_guesses() -> None:
    logits_BTV = jnp.log(jnp.array([[[0.2, 0.8], [0.7, 0.3]]]))
    top = top_k_predictions(logits_BTV, jnp.zeros((1, 2), jnp.int32))
    guesses = name_predictions(TopIds(top.ids[0], top.probability[0]), np.array([1, 2]), "ab")
    assert guesses.symbols == ["ba", "ab"] and guesses.positions_N.tolist() == [1, 2]
    np.testing.assert_allclose(guesses.probability_NG, [[0.8, 0.2], [0.7, 0.3]], rtol=1e-5)


def test_unknown_characters_leave_the_others_in_their_lines(lstm: Run) -> None:
    text = "@hel@lo\n@@\n@w\r?ater\n"
    without, spaces = (text.translate({ord(c): x for c in "@?\r"}) for x in ("", " "))
    dropped, replaced = (lstm.score(text, unknown=how) for how in ("drop", "replace"))
    np.testing.assert_array_equal(dropped.nll_N, lstm.score(without).nll_N)
    np.testing.assert_array_equal(replaced.nll_N, lstm.score(spaces).nll_N)
    known = [place for place, symbol in enumerate(text) if symbol in SYMBOLS]
    assert dropped.positions_N.tolist() == known[1:]  # the first that is read predicts the second
    assert replaced.positions_N.tolist() == [*range(1, len(text))]
    assert np.flatnonzero(lstm.vocabulary.knows(text)).tolist() == known
    assert [line.characters for line in score_lines(text, dropped)] == [5, 1, 6]
    assert [line.characters for line in score_lines(text, replaced)] == [7, 3, 9]
    sliding = lstm.score(text, unknown="drop", protocol=Sliding(4, targets=0))
    assert sliding.positions_N.tolist() == known[4:]
    for score in (dropped, replaced, sliding):
        assert sum(line.characters for line in score_lines(text, score)) == score.characters


def test_a_difference_is_over_what_both_scored() -> None:
    first, second = _fake_score("abc", [1, 3, 4]), _fake_score("abcd", [0, 3, 4, 7])
    expected = second.nll_N[1:3].astype(np.float64) - first.nll_N[1:]
    np.testing.assert_array_equal(surprisal_difference(first, second), expected)
    np.testing.assert_array_equal(surprisal_difference(second, first), -expected)


def test_numbers_that_are_not_finite_are_refused(lstm: Run) -> None:
    params = jax.tree.map(lambda w: w * jnp.nan, lstm.params)
    with pytest.raises(CharlmError, match="not finite"):
        dataclasses.replace(lstm, params=params).score("hello")


def test_lines_of_a_large_text_are_found_fast_and_in_order() -> None:
    text = "".join(f"{n:07}\n" for n in range(100_000))
    places = range(1, len(text))
    lines = score_lines(text, _fake_score(text, places))
    assert len(lines) == 100_000 and [line.characters for line in lines[:3]] == [7, 8, 8]
    assert all(one.number < two.number for one, two in itertools.pairwise(lines))


@pytest.mark.parametrize("separate_lines", [False, True])
def test_a_text_that_would_not_fit_into_memory_is_refused(
    lstm: Run, monkeypatch: pytest.MonkeyPatch, separate_lines: bool
) -> None:
    monkeypatch.setattr("charlm_jax.evaluation.text_score.MOST_SCORED", 5)
    with pytest.raises(CharlmError, match=r"the text has \d characters: at most 5 are scored"):
        lstm.score("ababab", separate_lines=separate_lines)
    assert lstm.score("ababa", separate_lines=separate_lines).characters >= 4
