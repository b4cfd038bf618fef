"""How far back a model looks, on models and texts where the answer is known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charlm_jax.analysis.effective_context import (
    CHANGES,
    ContextReach,
    effective_context,
    effective_context_interval,
    losses_by_context,
)
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.types import ModelState, Params
from charlm_jax.evaluation.block_sums import BlockSums, block_sums
from charlm_jax.models import LanguageModel, build_model
from tests.conftest import compiled_model, compiled_programs, make_model_config

V, REACH = 5, 12
IDS = np.random.default_rng(3).integers(0, V, 400).astype(np.uint8)
PART = (range(100, 220), range(300, 400))


def _looks_back(distance: int) -> LanguageModel:
    """A model that is sure that the character so far back comes again, and of nothing else."""

    def apply(
        params: Params, ids_BT: jax.Array, state: ModelState, *, key: jax.Array | None = None
    ) -> tuple[jax.Array, ModelState]:
        padded_BT = jnp.pad(ids_BT, ((0, 0), (distance, 0)), constant_values=-1)
        return 5.0 * jax.nn.one_hot(padded_BT[:, 1 : ids_BT.shape[1] + 1], V), state

    plain = build_model(make_model_config("lstm"), V)
    return plain._replace(apply=apply, initial_state=lambda batch_size, context: ())


def _losses(model: LanguageModel, change: str, contexts: list[int], **other: int) -> dict:
    asked = {"reach": REACH, "targets": 50, "batch_size": 16} | other
    return dict(losses_by_context(model, {}, IDS, PART, change=change, contexts=contexts, **asked))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("distance", [1, 4, 11])
def test_what_lies_beyond_the_models_reach_does_not_matter(change: str, distance: int) -> None:
    losses = _losses(_looks_back(distance), change, list(range(1, REACH)))
    assert list(losses) == list(range(1, REACH + 1))
    for context, nll_P in losses.items():
        if context >= distance:
            np.testing.assert_allclose(nll_P, losses[REACH], atol=1e-6)
        else:
            assert np.abs(nll_P - losses[REACH]).max() > 1.0, f"{context} changes nothing"


@pytest.mark.parametrize("change", CHANGES)
def test_only_truncation_reads_less(change: str) -> None:
    model, read = _looks_back(1), []

    def apply(
        params: Params, ids_BT: jax.Array, state: ModelState, *, key: jax.Array | None = None
    ) -> tuple[jax.Array, ModelState]:
        read.append(ids_BT.shape[1])
        return model.apply(params, ids_BT, state)

    _losses(model._replace(apply=apply), change, [2, 5])
    lengths = [1, *{"truncated": [2, 5, REACH]}.get(change, [REACH])]  # 1 tells V
    assert read == lengths, "every length is traced, and so compiled, once"


def test_a_model_that_is_asked_again_is_not_compiled_again() -> None:
    model = compiled_model(make_model_config("lstm"), V)
    params = model.init(jax.random.key(0))
    asked = {"contexts": [3, 7], "reach": REACH, "targets": 50, "batch_size": 16}

    def losses(change: str) -> np.ndarray:
        found = losses_by_context(model, params, IDS, PART, change=change, **asked)
        return np.stack([found[context] for context in (3, 7, REACH)])

    first_CP = losses("shuffled")
    with compiled_programs() as programs:
        again_CP, replaced_CP = losses("shuffled"), losses("replaced")
    assert not programs
    np.testing.assert_array_equal(again_CP, first_CP)
    np.testing.assert_array_equal(replaced_CP[-1], first_CP[-1])


def test_shuffling_keeps_the_characters_and_replacing_does_not() -> None:
    def counts_fours(
        params: Params, ids_BT: jax.Array, state: ModelState, *, key: jax.Array | None = None
    ) -> tuple[jax.Array, ModelState]:
        seen_BT = jnp.cumsum(ids_BT == 4, axis=1)
        return jax.nn.one_hot(jnp.zeros_like(ids_BT), V) * seen_BT[:, :, None], state

    model = _looks_back(1)._replace(apply=counts_fours)
    shuffled, replaced = (_losses(model, change, [1, 6]) for change in ("shuffled", "replaced"))
    for context in (1, 6):
        np.testing.assert_allclose(shuffled[context], shuffled[REACH], atol=1e-6)
        assert np.abs(replaced[context] - replaced[REACH]).max() > 0.1


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_seed_changes_the_same_and_batches_do_not_matter(change: str) -> None:
    model = compiled_model(make_model_config("lstm", init="flax"), V)
    params = jax.tree.map(lambda w: 3.0 * w, model.init(jax.random.key(0)))

    def losses(**other: int) -> np.ndarray:
        asked = {"reach": REACH, "targets": 50, "batch_size": 16} | other
        found = losses_by_context(model, params, IDS, PART, change=change, contexts=[3], **asked)
        return np.concatenate(list(found.values()))

    np.testing.assert_allclose(losses(), losses(batch_size=7), atol=1e-5)
    differs = np.abs(losses() - losses(seed=1)).max() > 0.01
    assert differs == (change != "truncated")


def test_the_smallest_context_from_which_on_the_loss_stays_low() -> None:
    assert effective_context({1: 1.0, 2: 3.0, 4: 1.009, 8: 1.0}) == 4  # 1 was luck
    assert effective_context({1: 3.0, 8: 1.0}) == 8
    assert effective_context({1: 1.0, 8: 1.0}) == 1
    assert effective_context({1: 1.04, 8: 1.0}, share=0.05) == 1


@pytest.mark.parametrize(
    ("losses", "share", "message"),
    [
        ({}, 0.01, "there are no losses"),
        ({1: 2.0, 8: math.nan}, 0.01, "the loss at context=8 is nan: it must be finite"),
        ({1: math.inf, 8: 1.0}, 0.01, "the loss at context=1 is inf"),
        ({1: 2.0, 8: 1.0}, math.nan, "share=nan is not allowed: it must be at least 0"),
    ],
)
def test_losses_without_an_effective_context(losses: dict, share: float, message: str) -> None:
    with pytest.raises(CharlmError, match=message):
        effective_context(losses, share=share)


def test_mistakes_are_told() -> None:
    with pytest.raises(CharlmError, match="'cut' is not known: it must be one of truncated, shuf"):
        _losses(_looks_back(1), "cut", [1])
    for context in (0, REACH + 1):
        with pytest.raises(CharlmError, match=f"context={context} is not allowed"):
            _losses(_looks_back(1), "truncated", [context])
    for other, message in (
        ({"contexts": [2.0]}, "context=2.0 is not allowed: it must be a whole number"),
        ({"seed": -1}, "seed=-1 is not allowed"),
        ({"seed": 1.5}, "seed=1.5 is not allowed: it must be a whole number"),
        ({"batch_size": 0}, "batch_size=0 is not allowed"),
    ):
        with pytest.raises(CharlmError, match=message):
            _losses(_looks_back(1), "truncated", **{"contexts": [1], **other})
    with pytest.raises(CharlmError, match="context=400 is too long"):
        _losses(_looks_back(1), "truncated", [1], reach=400)


def test_what_is_read_instead_does_not_hold_the_target() -> None:
    """On a text without repetition, whose characters are their positions."""
    read = []

    def apply(
        params: Params, ids_BT: jax.Array, state: ModelState, *, key: jax.Array | None = None
    ) -> tuple[jax.Array, ModelState]:
        jax.debug.callback(lambda ids_BT: read.append(np.asarray(ids_BT)), ids_BT)
        return jnp.zeros((*ids_BT.shape, 200)), state

    model = _looks_back(1)
    losses_by_context(
        model._replace(apply=apply),
        {},
        np.arange(200, dtype=np.int32),
        (range(20, 200),),
        change="replaced",
        contexts=[2],
        reach=REACH,
        targets=0,
        batch_size=200,
    )
    jax.effects_barrier()
    rows_PT = next(rows for rows in read if (np.diff(rows, axis=1) != 1).any())
    targets_P = rows_PT[:, -1] + 1  # the last that is read is unchanged
    assert len(rows_PT) >= 180 and not (rows_PT[:, :-2] == targets_P[:, None]).any()
    with pytest.raises(CharlmError, match="too short to replace 12 characters"):
        losses_by_context(
            model,
            {},
            IDS,
            (range(100, 120),),
            change="replaced",
            contexts=[2],
            reach=REACH,
            targets=0,
            batch_size=16,
        )


@pytest.mark.parametrize("change", CHANGES)
def test_more_characters_than_a_model_has_positions_are_refused(change: str) -> None:
    config = make_model_config("attention", position="learned", max_length=REACH - 1)
    model = build_model(config, V)
    with pytest.raises(CharlmError, match="the reach needs 12 positions, but the model has 11"):
        _losses(model, change, [1])


def test_an_interval_that_cannot_be_known_is_that_of_all_contexts() -> None:
    losses = {n: block_sums([np.full(80, x)]) for n, x in ((1, 3.0), (4, 2.0), (9, 2.0))}
    assert effective_context_interval(losses) == ContextReach(4, 1, 9)
    several = {n: BlockSums(np.repeat(x.sums_SK, 2, axis=0), x.counts_K) for n, x in losses.items()}
    with pytest.raises(CharlmError, match="of one run"):
        effective_context_interval(several)
    with pytest.raises(CharlmError, match="draws=1 is not allowed"):
        effective_context_interval(losses, draws=1)
    with pytest.raises(CharlmError, match="there are no losses"):
        effective_context_interval({})
    unknown = {**losses, 9: losses[9]._replace(sums_SK=np.array([[math.nan]]))}
    with pytest.raises(CharlmError, match="run 0 has a sum of nan"):
        effective_context_interval(unknown)
    sums_SK, counts_K = np.tile([[3.0, 0.0, 3.0]], (1, 1)), np.array([1, 0, 1])
    empty = {n: BlockSums(sums_SK * x, counts_K) for n, x in ((1, 2.0), (4, 1.0))}
    assert effective_context_interval(empty) == ContextReach(4, 4, 4)


def test_an_effective_context_has_an_interval_over_the_text() -> None:
    rng = np.random.default_rng(1)
    far_N = rng.normal(1.5, 0.01, 2_000)
    near_N = far_N + np.where(np.arange(2_000) < 900, 0.05, 0.0)  # in nearly half of the text

    def sums(nll_N: np.ndarray) -> BlockSums:
        return block_sums([nll_N], block=100)

    losses = {1: sums(far_N + 1), 2: sums(near_N), 4: sums(far_N), 8: sums(far_N)}
    found = effective_context_interval(losses)
    assert found.low == 2 and found.high == 4 and found.characters == 4
    everywhere = {**losses, 2: sums(far_N + 0.05)}
    assert effective_context_interval(everywhere) == ContextReach(4, 4, 4)
