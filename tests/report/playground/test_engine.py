"""The JavaScript of the playground computes what JAX computes."""

import base64
import json
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from py_mini_racer import MiniRacer

from charlm_jax.config.schema import ModelConfig
from charlm_jax.core.errors import CharlmError
from charlm_jax.data.vocabulary import Vocabulary
from charlm_jax.inference.trained_model import TrainedModel
from charlm_jax.models import build_model
from charlm_jax.report.playground.model_data import MIXERS, model_data
from charlm_jax.report.playground.scripts import ENGINE, join_scripts
from charlm_jax.sampling.categorical import gumbel_noise, sample_keys
from tests.conftest import make_tiny_config, quick_jit
from tests.models.contract import CASES

SYMBOLS = "\n abcdefghij"
FLOAT32 = {name: model for name, model in CASES.items() if model.precision == "float32"}
TEXT = "abcdefghij a\nfaded cab had a bad dad"

SCALES = (0.5, 1.0, 2.0, math.inf)
TRUNCATIONS = ({}, {"top_k": 4}, {"top_p": 0.8}, {"min_p": 0.1}, {"top_k": 7, "top_p": 0.9})
# One of every mixer, and a model that reads a window again.
SAMPLED = [
    "lstm-bare",
    "gru-bare",
    "rnn-bare",
    "mingru+attention+gru",
    "self_attention-block=pre_norm-position=rotary-norm=layer_norm",
    "attention-heads=1-block=pre_norm-mlp=relu2-position=learned-norm=layer_norm",
]

# What the tests call, in the scope of the engine.
DRIVER = """
let description, weights, model;
function load(json, base64) {
  description = JSON.parse(json);
  weights = openWeights(description.tensors, decodeBase64(base64).buffer);
  model = buildModel(description.model, description.symbols.length, weights, description.context);
}
function reader() {
  return openReader(model, description.mode === "window" ? description.context : 0);
}
function logitsOf(ids) {
  const opened = reader();
  return ids.map((id) => [...opened.read(id)]);
}
function bitsOf(seed, index, step, count) {
  return [...randomBits(foldIn(sampleKey(seed, index), step), count)];
}
function noiseOf(seed, index, step, count) {
  return [...gumbelNoise(sampleKey(seed, index), step, count)];
}
function sample(ids, characters, settings) {
  const opened = reader();
  let logits;
  for (const id of ids) logits = opened.read(id);
  const next = openSample(opened, logits, { ...settings, scale: Number(settings.scale) });
  return Array.from({ length: characters }, () => next().id);
}
"""


@pytest.fixture(scope="module")
def engine() -> Callable[..., Any]:
    """A function that calls one of the engine's, with plain values."""
    context = MiniRacer()
    context.eval(join_scripts(ENGINE) + DRIVER)

    def call(name: str, *arguments: Any) -> Any:
        listed = ", ".join(map(json.dumps, arguments))
        return json.loads(context.eval(f"JSON.stringify({name}({listed}) ?? null)"))

    return call


def random_model(model: ModelConfig, *, seed: int = 0, context: int = 8) -> TrainedModel:
    """A model with random weights, large enough that the logits differ."""
    config = make_tiny_config()
    fields = config.to_dict()
    fields["model"] = {**fields["model"], **json.loads(json.dumps(model.__dict__))}
    fields["data"]["sequence_length"] = context
    config = type(config).from_dict(fields)
    built = build_model(model, len(SYMBOLS))
    params = built.init(jax.random.key(seed))
    generator = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda x: jnp.asarray(x + generator.normal(0, 0.3, x.shape), jnp.float32), params
    )
    return TrainedModel(config, Vocabulary(SYMBOLS), built, params)


def load(engine: Callable[..., Any], trained: TrainedModel) -> None:
    data = model_data(trained)
    engine("load", json.dumps(data.description), base64.b64encode(data.weights).decode())


def expected_logits(trained: TrainedModel, ids_N: np.ndarray, context: int) -> np.ndarray:
    state = trained.model.initial_state(1, context)
    return np.asarray(trained.model.apply(trained.params, ids_N[None, :], state)[0][0])


def test_every_mixer_is_computed_or_refused() -> None:
    assert {layer for model in FLOAT32.values() for layer in model.layers} == set(MIXERS)


@pytest.mark.parametrize("name", [name for name in CASES if name not in FLOAT32])
def test_other_precisions_are_refused_by_name(name: str) -> None:
    with pytest.raises(CharlmError, match="precision='bfloat16'"):
        model_data(random_model(CASES[name]))


@pytest.mark.parametrize("name", FLOAT32)
def test_logits_are_those_of_jax(name: str, engine: Callable[..., Any]) -> None:
    trained = random_model(FLOAT32[name], context=9)
    ids_N = trained.vocabulary.encode(TEXT).astype(np.int32)
    if trained.model.max_length is not None:  # within the window, which both read whole
        ids_N = ids_N[:9]
    load(engine, trained)
    state = trained.model.initial_state(1, 9)
    expected = quick_jit(trained.model.apply)(trained.params, ids_N[None, :], state)[0][0]
    logits = np.array(engine("logitsOf", ids_N.tolist()), np.float32)
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1])
def test_random_bits_are_those_of_jax(seed: int, engine: Callable[..., Any]) -> None:
    for index, step in ((0, 0), (3, 1000)):
        key = jax.random.fold_in(sample_keys(seed, 1, first=index)[0], step)
        bits_V = jax.random.bits(key, (57,), jnp.uint32)
        assert engine("bitsOf", seed, index, step, 57) == np.asarray(bits_V).tolist()


def test_noise_is_that_of_jax_up_to_the_logarithm(engine: Callable[..., Any]) -> None:
    expected_V = gumbel_noise(sample_keys(1, 1), jnp.int32(5), 5000)[0]
    noise_V = np.array(engine("noiseOf", 1, 0, 5, 5000), np.float32)
    np.testing.assert_allclose(noise_V, expected_V, rtol=1e-6, atol=1e-6)


def sampled_texts(
    engine: Callable[..., Any],
    trained: TrainedModel,
    *,
    samples: int,
    characters: int,
    **truncations: Any,
) -> tuple[list[str], list[str]]:
    """Texts of JAX and of the engine, for every scale and sample."""
    prompt = TEXT[:5]
    pieces = trained.sample(
        prompt, samples=samples, scales=SCALES, seed=1, characters=characters, **truncations
    )
    theirs = ["".join(chunk.text for chunk in chunks) for chunks in zip(*pieces, strict=True)]
    load(engine, trained)
    ids = trained.vocabulary.encode(prompt).tolist()
    names = {"top_k": "topK", "top_p": "topP", "min_p": "minP"}
    settings = {names[name]: value for name, value in truncations.items()}
    ours = [
        trained.vocabulary.decode(
            engine(
                "sample",
                ids,
                characters,
                {"seed": 1, "index": index, "scale": scale, **settings},
            )
        )
        for scale in ("0.5", "1", "2", "Infinity")
        for index in range(samples)
    ]
    return theirs, ours


@pytest.mark.parametrize("name", SAMPLED)
@pytest.mark.parametrize("truncation", TRUNCATIONS, ids=str)
def test_texts_are_those_of_jax(
    name: str, truncation: dict[str, Any], engine: Callable[..., Any]
) -> None:
    trained = random_model(FLOAT32[name], context=12)
    theirs, ours = sampled_texts(engine, trained, samples=5, characters=60, **truncation)
    assert ours == theirs


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", FLOAT32)
@pytest.mark.parametrize("truncation", TRUNCATIONS, ids=str)
def test_long_texts_are_those_of_jax(
    name: str, truncation: dict[str, Any], engine: Callable[..., Any]
) -> None:
    trained = random_model(FLOAT32[name], context=12)
    theirs, ours = sampled_texts(engine, trained, samples=20, characters=500, **truncation)
    assert ours == theirs
