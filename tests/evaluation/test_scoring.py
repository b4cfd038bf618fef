"""Every held-out character is scored exactly once, by the rule and by nothing else."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm_jax.core.errors import CharlmError
from charlm_jax.evaluation import Sliding, Stream, Window
from charlm_jax.evaluation.scoring import (
    build_scorer,
    make_sliding_scorer,
    make_stream_scorer,
    make_window_scorer,
    mean_score,
)
from charlm_jax.models import LanguageModel
from charlm_jax.models.losses import masked_sum, negative_log_likelihood
from tests.conftest import compiled_model, make_model_config

pytestmark = pytest.mark.optimised

V = 7
IDS = np.random.default_rng(0).integers(0, V, 60).astype(np.uint8)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return compiled_model(make_model_config("lstm", init="flax"), V)


@pytest.fixture(scope="module")
def params(model: LanguageModel) -> dict:
    # Large weights, so that what a model has read matters to what it predicts.
    return jax.tree.map(lambda w: 3.0 * w, model.init(jax.random.key(0)))


def _reference(model: LanguageModel, params: dict, part: range, context: int) -> np.ndarray:
    """One window at a time, one character at a time."""
    read, nll = model.apply, []
    first = max(part.start, 1)
    for start in range(first, part.stop, context):
        state = model.initial_state(1, 0)
        for place in range(start, min(start + context, part.stop)):
            logits, state = read(params, jnp.array([[int(IDS[place - 1])]]), state)
            scores_V = np.asarray(logits, np.float64)[0, 0]
            nll.append(np.log(np.exp(scores_V).sum()) - scores_V[IDS[place]])
    return np.array(nll)


PARTS = [range(20, 60), range(0, 31), range(37, 38), range(11, 24)]


@pytest.mark.core
@pytest.mark.parametrize(
    ("part", "context", "batch_size"),
    [(PARTS[0], 8, 3), (PARTS[1], 7, 1), (PARTS[2], 5, 4), (PARTS[3], 40, 2), (PARTS[0], 1, 16)],
)
def test_window_scores_each_character_once_under_its_rule(
    model: LanguageModel, params: dict, part: range, context: int, batch_size: int
) -> None:
    score = make_window_scorer(model, context=context, batch_size=batch_size)
    nll_N = score(params, jnp.asarray(IDS), (part,))
    assert nll_N.dtype == np.float32 and len(nll_N) == part.stop - max(part.start, 1)
    np.testing.assert_allclose(nll_N, _reference(model, params, part, context), atol=1e-5)


def test_scoring_is_watched_and_left_off_between_batches(
    model: LanguageModel, params: dict
) -> None:
    score = make_window_scorer(model, context=8, batch_size=2)  # 5 windows: 3 batches
    shares: list[float] = []
    watched = score(params, jnp.asarray(IDS), (PARTS[0],), advance=shares.append)
    np.testing.assert_array_equal(watched, score(params, jnp.asarray(IDS), (PARTS[0],)))
    assert shares == [1 / 3, 2 / 3]

    def leave_off(share: float) -> None:
        shares.append(share)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(params, jnp.asarray(IDS), (PARTS[0],), advance=leave_off)
    assert shares == [1 / 3, 2 / 3, 1 / 3]


def test_the_batch_size_does_not_change_the_figure(model: LanguageModel, params: dict) -> None:
    arrays = [
        make_window_scorer(model, context=6, batch_size=size)(params, jnp.asarray(IDS), (PARTS[0],))
        for size in (1, 2, 5, 100)
    ]
    for a, b in itertools.pairwise(arrays):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.core
@pytest.mark.parametrize("piece", [7, 512])
def test_stream_is_one_window_over_the_whole_part(
    model: LanguageModel, params: dict, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("charlm_jax.evaluation.scoring._STREAM_PIECE", piece)
    for part in PARTS:
        nll_N = make_stream_scorer(model, context=1)(params, jnp.asarray(IDS), (part,))
        expected = _reference(model, params, part, context=len(IDS))
        np.testing.assert_allclose(nll_N, expected, atol=1e-5)


@pytest.mark.parametrize("context", [1, 4, 9])
def test_stretches_are_scored_one_by_one(model: LanguageModel, params: dict, context: int) -> None:
    stretches, ids_N = (range(0, 9), range(11, 24), range(37, 38), range(50, 60)), jnp.asarray(IDS)
    scorers = [
        make_window_scorer(model, context=context, batch_size=3),
        make_stream_scorer(model, context=1),
    ]
    for score in scorers:
        apart = [score(params, ids_N, (stretch,)) for stretch in stretches]
        together = score(params, ids_N, stretches)
        assert len(together) == 8 + 13 + 1 + 10
        np.testing.assert_allclose(together, np.concatenate(apart), atol=1e-6)


@pytest.mark.parametrize("context", [1, 4, 9])
def test_a_stream_that_begins_anew_every_window_is_the_window_rule(
    model: LanguageModel, params: dict, context: int
) -> None:
    part, ids_N = range(13, 60), jnp.asarray(IDS)
    anew = tuple(range(start, min(start + context, 60)) for start in range(13, 60, context))
    streamed = make_stream_scorer(model, context=1)(params, ids_N, anew)
    windows = make_window_scorer(model, context=context, batch_size=4)(params, ids_N, (part,))
    np.testing.assert_allclose(streamed, windows, atol=1e-6)


def test_one_character_read_is_a_table_of_what_follows_it(
    model: LanguageModel, params: dict
) -> None:
    state = model.initial_state(V, 0)
    logits_VV = model.apply(params, jnp.arange(V)[:, None], state)[0][:, 0]
    table_VV = -jax.nn.log_softmax(logits_VV)
    expected = table_VV[IDS[19:59], IDS[20:60]]
    for protocol in (Window(1), Sliding(1, targets=0)):
        score = build_scorer(model, protocol, batch_size=7)
        nll_N = score(params, jnp.asarray(IDS), (range(20, 60),))
        np.testing.assert_allclose(nll_N, expected, atol=1e-6)


@pytest.mark.core
@pytest.mark.parametrize(("context", "batch_size", "most"), [(1, 3, 0), (6, 4, 11), (20, 64, 7)])
def test_sliding_reads_exactly_so_many_characters(
    model: LanguageModel, params: dict, context: int, batch_size: int, most: int
) -> None:
    part, protocol = (range(20, 41), range(44, 60)), Sliding(context, most)
    positions_P = protocol.positions(part)
    assert len(positions_P) == (most or 37)
    score = make_sliding_scorer(model, protocol, batch_size=batch_size)
    nll_P = score(params, jnp.asarray(IDS), part)
    assert nll_P.dtype == np.float32 and len(nll_P) == len(positions_P)
    for nll, place in zip(nll_P, positions_P, strict=True):
        row_T = jnp.asarray(IDS[place - context : place], jnp.int32)
        logits, _ = model.apply(params, row_T[None], model.initial_state(1, 0))
        expected = -jax.nn.log_softmax(logits[0, -1])[IDS[place]]
        np.testing.assert_allclose(nll, expected, atol=1e-5)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 5)), min_size=1), st.integers(0, 40))
def test_sliding_targets_are_spread_evenly(shape: list[tuple[int, int]], most: int) -> None:
    part, place = [], 7
    for length, gap in shape:
        part.append(range(place, place + length))
        place += length + gap
    everything = np.concatenate(part)
    chosen = Sliding(7, most).positions(tuple(part))
    np.testing.assert_array_equal(chosen, Sliding(1, most).positions(tuple(part)))
    assert len(chosen) == len(set(chosen)) == min(most or len(everything), len(everything))
    gaps = np.diff(np.searchsorted(everything, chosen))
    assert not gaps.size or gaps.max() - gaps.min() <= 1
    ends = np.searchsorted(everything, chosen[[0, -1]])
    assert abs(ends[0] - (len(everything) - 1 - ends[1])) <= 1


def test_sliding_leaves_out_what_too_little_precedes() -> None:
    np.testing.assert_array_equal(Sliding(6, targets=0).positions((range(0, 9),)), [6, 7, 8])
    with pytest.raises(CharlmError, match="context=9 is too long"):
        Sliding(9, targets=0).positions((range(0, 9),))


def test_a_model_that_knows_nothing_scores_the_log_of_the_alphabet(
    model: LanguageModel, params: dict
) -> None:
    zeros = jax.tree.map(jnp.zeros_like, params)
    score = mean_score(
        make_window_scorer(model, context=9, batch_size=4)(zeros, jnp.asarray(IDS), (PARTS[0],))
    )
    assert score.characters == len(PARTS[0])
    assert score.loss_nats == pytest.approx(math.log(V))
    assert score.bits_per_char == pytest.approx(math.log2(V))


def test_negative_log_likelihood_is_its_formula() -> None:
    logits_BTV = jax.random.normal(jax.random.key(0), (2, 3, V))
    targets_BT = jnp.array([[0, 6, 2], [3, 3, 1]], jnp.uint8)
    nll_BT = negative_log_likelihood(logits_BTV, targets_BT)
    for b, t in itertools.product(range(2), range(3)):
        weights = np.exp(np.asarray(logits_BTV[b, t], np.float64))
        expected = -np.log(weights[int(targets_BT[b, t])] / weights.sum())
        assert float(nll_BT[b, t]) == pytest.approx(expected, abs=1e-6)


def test_a_masked_sum_leaves_out_what_does_not_count() -> None:
    values = jnp.array([[1.0, 2.0], [30.0, jnp.float32(5.0)]])
    mask = jnp.array([[True, True], [False, True]])
    assert float(masked_sum(values, mask)) == 8.0
    assert float(masked_sum(values, jnp.zeros_like(mask))) == 0.0


@pytest.mark.parametrize("protocol", [Window(5), Sliding(4, 9), Stream()], ids=str)
def test_a_measure_may_be_a_tree(
    model: LanguageModel, params: dict, protocol: Window | Sliding | Stream
) -> None:
    """Every leaf keeps its dtype and has one entry per scored character."""

    def measure(logits_BTV: jax.Array, targets_BT: jax.Array) -> dict:
        loss_BT = negative_log_likelihood(logits_BTV, targets_BT)
        return {"loss": loss_BT, "target": targets_BT, "logits": [logits_BTV]}

    part, ids_N = (range(0, 23), range(30, 41)), jnp.asarray(IDS)
    expected = build_scorer(model, protocol, batch_size=3)(params, ids_N, part)
    values = build_scorer(model, protocol, batch_size=3, measure=measure)(params, ids_N, part)
    np.testing.assert_allclose(values["loss"], expected, atol=1e-6)
    np.testing.assert_array_equal(values["target"], IDS[protocol.positions(part)])
    assert values["target"].dtype == np.int32
    assert values["logits"][0].shape == (len(expected), V)


def test_what_is_no_protocol_or_batch_size_is_refused(model: LanguageModel) -> None:
    with pytest.raises(CharlmError, match="protocol='stream' is not an evaluation protocol"):
        build_scorer(model, "stream", batch_size=1)  # type: ignore[arg-type]
    for protocol in (Window(5), Sliding(5)):
        for batch_size in (0, 2.5, "2"):
            with pytest.raises(CharlmError, match=r"batch_size=.* is not allowed"):
                build_scorer(model, protocol, batch_size=batch_size)  # type: ignore[arg-type]


def test_a_stream_through_attention_names_its_context() -> None:
    attention = compiled_model(make_model_config("attention", hidden_size=4, embedding_size=4), V)
    with pytest.raises(CharlmError, match="needs a context for attention"):
        build_scorer(attention, Stream(), batch_size=1)
