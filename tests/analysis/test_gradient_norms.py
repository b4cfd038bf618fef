"""Gradient of a prediction's loss by distance, against gradients of the embedding itself."""

from collections.abc import Sequence

import jax
import numpy as np
import pytest

from charlm_jax.analysis.gradient_norms import gradient_norms_by_distance
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.prng import root_key
from charlm_jax.core.types import Params
from charlm_jax.models import LanguageModel, build_model
from tests.conftest import make_model_config

V, REACH = 9, 6
# No character occurs twice in 7, so a character's gradient is that of its row of the embedding.
IDS = np.tile(np.arange(V, dtype=np.uint8), 8)
PART = (range(20, 50),)


def _model(*layers: str, **changes: object) -> tuple[LanguageModel, Params]:
    model = build_model(make_model_config(*layers, **changes), V)
    return model, model.init(root_key(0))


@pytest.mark.parametrize("layers", [("lstm",), ("mingru",), ("attention",), ("gru", "attention")])
def test_a_norm_is_that_of_the_embeddings_gradient(layers: Sequence[str]) -> None:
    model, params = _model(*layers)
    norm_PT = gradient_norms_by_distance(
        model, params, IDS, PART, reach=REACH, targets=5, batch_size=2
    )
    assert norm_PT.shape == (5, REACH)

    def loss(params: Params, row_T: np.ndarray) -> jax.Array:
        logits_BTV, _ = model.apply(params, row_T[None, :-1], model.initial_state(1, REACH))
        return -jax.nn.log_softmax(logits_BTV[0, -1])[row_T[-1]]

    positions_P = 20 + (2 * np.arange(5) + 1) * 30 // 10  # the middle of each fifth
    for norm_T, position in zip(norm_PT, positions_P, strict=True):
        row_T = IDS[position - REACH : position + 1].astype(np.int32)
        gradient_VE = jax.grad(loss)(params, row_T)["embedding"]
        nearest_first_T = np.linalg.norm(gradient_VE, axis=1)[row_T[-2::-1]]
        np.testing.assert_allclose(norm_T, nearest_first_T, rtol=1e-4, atol=1e-7)


def test_nothing_reaches_beyond_the_window_of_attention() -> None:
    model, params = _model("attention", window=3)
    norm_PT = gradient_norms_by_distance(model, params, IDS, PART, reach=REACH, targets=4)
    assert (norm_PT[:, :3] > 0).all() and not norm_PT[:, 3:].any()


def test_more_characters_than_a_model_has_positions_are_refused() -> None:
    model, params = _model("attention", position="learned", max_length=REACH - 1)
    with pytest.raises(CharlmError, match="the reach needs 6 positions, but the model has 5"):
        gradient_norms_by_distance(model, params, IDS, PART, reach=REACH, targets=4)


@pytest.mark.parametrize("batch_size", [0, 2.5])
def test_a_batch_has_a_whole_number_of_targets(batch_size: int) -> None:
    model, params = _model("gru")
    told = {"reach": REACH, "targets": 4, "batch_size": batch_size}
    with pytest.raises(CharlmError, match=f"batch_size={batch_size} is not allowed"):
        gradient_norms_by_distance(model, params, IDS, PART, **told)


def test_an_embedding_that_is_the_output_too_is_refused() -> None:
    model, params = _model("gru", tied_embedding=True, embedding_size=6)
    with pytest.raises(CharlmError, match="tied_embedding=True is not supported"):
        gradient_norms_by_distance(model, params, IDS, PART, reach=REACH, targets=4)
