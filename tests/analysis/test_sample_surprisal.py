"""What drawn text is to the model that drew it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charlm_jax.analysis import sample_surprisal
from charlm_jax.analysis.sample_surprisal import make_sample_scorer
from charlm_jax.sampling.categorical import sample_keys
from charlm_jax.sampling.decoding import SampleBatch, make_decoder
from charlm_jax.sampling.policies import build_policy, probabilities
from tests.conftest import compiled_model, make_model_config

V, CONTEXT, T = 7, 64, 30
PROMPT = np.array([3, 1, 4, 1, 5], np.uint8)
SETTINGS = {
    "scale": [0.0, 0.5, 1.0, 3.0, np.inf, 1.0],
    "top_k": [0, 0, 0, 4, 0, 1],
    "min_p": [0.0, 0.0, 0.0, 0.1, 0.0, 0.0],
}
OWN_PROMPTS = np.random.default_rng(0).integers(0, V, (6, 5)).astype(np.uint8)


@pytest.mark.parametrize("prompt", [PROMPT, OWN_PROMPTS], ids=["common", "own"])
def test_surprisal_and_entropy_of_every_character(
    prompt: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_surprisal, "_PIECE", 11)
    model = compiled_model(make_model_config("lstm", "attention", init="flax"), V)
    params = jax.tree.map(lambda w: 4.0 * w, model.init(jax.random.key(0)))
    policy = build_policy(**SETTINGS)
    rows = SampleBatch(sample_keys(0, len(policy.scale_B)), policy)
    decode = make_decoder(model, mode="carried", context=CONTEXT)
    ids_BT = np.concatenate(list(decode(params, PROMPT, rows, T)), axis=1)
    found = make_sample_scorer(model, context=CONTEXT)(params, prompt, ids_BT, policy)

    prompt_BN = np.broadcast_to(prompt, OWN_PROMPTS.shape)
    whole_BT = np.concatenate([prompt_BN, ids_BT], axis=1).astype(np.int32)
    state = model.initial_state(len(ids_BT), CONTEXT)
    logits_BTV, _ = model.apply(params, jnp.asarray(whole_BT[:, :-1]), state)
    logits_BTV = logits_BTV[:, len(PROMPT) - 1 :]
    log_p_BTV = np.asarray(jax.nn.log_softmax(logits_BTV))
    want_BT = -np.take_along_axis(log_p_BTV, ids_BT[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(found.surprisal_BT, want_BT, rtol=1e-4, atol=1e-5)
    for place in (0, 1, T - 1):
        p_BV = np.asarray(probabilities(logits_BTV[:, place], policy), np.float64)
        want_B = -np.sum(p_BV * np.log(np.where(p_BV > 0, p_BV, 1.0)), axis=1)
        np.testing.assert_allclose(found.entropy_BT[:, place], want_B, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.entropy_BT[0], np.log(V), rtol=1e-6)
    assert not found.entropy_BT[4:].any()  # the best symbol alone
