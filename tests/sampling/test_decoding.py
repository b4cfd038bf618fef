"""Decoding: what is drawn depends on the prompt, the sample's key and its scale alone."""

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charlm_jax.core.errors import CharlmError
from charlm_jax.models import LanguageModel
from charlm_jax.sampling.categorical import gumbel_noise, sample_keys
from charlm_jax.sampling.decoding import SampleBatch, make_decoder, rows_at_once, split_rows
from charlm_jax.sampling.policies import build_policy, probabilities
from tests.conftest import compiled_model, make_model_config

pytestmark = pytest.mark.optimised

V = 9
PROMPT = np.array([3, 1, 4, 1, 5], np.uint8)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return compiled_model(make_model_config("lstm", "gru", init="flax"), V)


@pytest.fixture(scope="module")
def params(model: LanguageModel) -> dict:
    return jax.tree.map(lambda w: 4.0 * w, model.init(jax.random.key(0)))


TRUNCATIONS = {
    "plain": {},
    "top_k": {"top_k": 3},
    "top_p": {"top_p": 0.7},
    "min_p": {"min_p": 0.2},
    "all": {"top_k": 5, "top_p": 0.9, "min_p": 0.1},
}


def _rows(
    scales: list[float], samples: list[int], seed: int = 0, **truncations: object
) -> SampleBatch:
    keys = sample_keys(seed, max(samples) + 1)[jnp.array(samples)]
    return SampleBatch(keys, build_policy(scale=scales, **truncations))


# Each alone with --exhaustive only.
SOME_TRUNCATIONS = [
    name if name in ("plain", "all") else pytest.param(name, marks=pytest.mark.exhaustive)
    for name in TRUNCATIONS
]

Decode = Callable[..., np.ndarray]


@pytest.fixture(scope="module", autouse=True)
def short_pieces() -> Iterator[None]:
    """A text of these tests is drawn in several dispatches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("charlm_jax.sampling.decoding._CARRIED_PIECE", 25)
        yield


@pytest.fixture(scope="module")
def decode(model: LanguageModel, params: dict) -> Decode:
    """(rows, characters, mode, context, prompt, drawn) -> ids_BT; a decoder is built once."""
    build = functools.cache(functools.partial(make_decoder, model))

    def run(
        rows: SampleBatch,
        characters: int,
        mode: str = "carried",
        context: int = 8,
        prompt: np.ndarray = PROMPT,
        drawn: int = 0,
    ) -> np.ndarray:
        decoder = build(mode=mode, context=context)
        pieces = list(decoder(params, prompt, rows, characters, sampled=drawn))
        return np.concatenate([np.zeros((len(rows.keys_B), 0), int), *pieces], axis=1)

    return run


@pytest.fixture(scope="module")
def reference(model: LanguageModel, params: dict) -> Callable[[SampleBatch, int, int], np.ndarray]:
    """The textbook's loop: read the last characters again, one by one, scale, draw, append."""

    def run(rows: SampleBatch, characters: int, window: int) -> np.ndarray:
        texts = []
        for key, scale in zip(rows.keys_B, rows.policy.scale_B, strict=True):
            text = list(map(int, PROMPT))
            for number in range(characters):
                state = model.initial_state(1, 0)
                for symbol in text[-window:]:
                    logits_BTV, state = model.apply(params, jnp.array([[symbol]]), state)
                noise_V = gumbel_noise(key[None], jnp.int32(number), V)[0]
                text.append(int(np.argmax(np.asarray(logits_BTV)[0, -1] * scale + noise_V)))
            texts.append(text[len(PROMPT) :])
        return np.array(texts)

    return run


@pytest.mark.core
@pytest.mark.parametrize("window", [3, 8, 20])
def test_window_is_the_textbooks_sampler(decode: Decode, reference: Decode, window: int) -> None:
    rows = _rows([0.5, 1.0, 2.0], [0, 1, 0])
    found = decode(rows, 27, mode="window", context=window)
    np.testing.assert_array_equal(found, reference(rows, 27, window))


@pytest.mark.core
def test_carried_reads_everything_from_the_first_character(
    decode: Decode, reference: Decode
) -> None:
    rows = _rows([1.0, 2.0, 0.5], [0, 3, 1])
    np.testing.assert_array_equal(decode(rows, 27), reference(rows, 27, 1000))


@pytest.mark.parametrize("truncation", SOME_TRUNCATIONS)
def test_both_agree_until_the_window_is_full_and_not_after(decode: Decode, truncation: str) -> None:
    rows = _rows([1.0] * 4, [0, 1, 2, 3], **TRUNCATIONS[truncation])
    carried = decode(rows, 60)
    window = decode(rows, 60, mode="window", context=20)
    full = 20 - len(PROMPT) + 1  # the last character drawn while nothing has been left out
    np.testing.assert_array_equal(carried[:, :full], window[:, :full])
    assert not np.array_equal(carried, window)


@pytest.mark.parametrize("mode", ["carried", "window"])
def test_a_sample_does_not_depend_on_its_batch(decode: Decode, mode: str) -> None:
    together = decode(_rows([0.5, 2.0, 1.0], [0, 1, 4]), 40, mode)
    for row, (scale, sample) in enumerate([(0.5, 0), (2.0, 1), (1.0, 4)]):
        alone = decode(_rows([scale], [sample]), 40, mode)
        np.testing.assert_array_equal(alone[0], together[row])


def test_every_row_has_its_own_policy_whatever_stands_beside_it(decode: Decode) -> None:
    scales, samples = [0.5, 2.0, 1.0, 1.0, 0.0, float("inf")], [0, 1, 4, 4, 2, 0]
    numbers = {
        "top_k": [0, 3, 0, 0, 2, 0],
        "top_p": [0.7, 1.0, 1.0, 1.0, 1.0, 0.5],
        "min_p": [0.0, 0.1, 0.0, 0.3, 0.0, 0.0],
    }
    together = decode(_rows(scales, samples, **numbers), 40)
    order = [3, 0, 5, 2, 4, 1]
    mixed = {name: [values[row] for row in order] for name, values in numbers.items()}
    rows = _rows([scales[row] for row in order], [samples[row] for row in order], **mixed)
    np.testing.assert_array_equal(decode(rows, 40), together[order])
    for row, (scale, sample) in enumerate(zip(scales, samples, strict=True)):
        told = {name: values[row] for name, values in numbers.items()}
        np.testing.assert_array_equal(
            decode(_rows([scale], [sample], **told), 40)[0], together[row]
        )
    assert len({tuple(row) for row in together}) == len(scales)


@pytest.mark.parametrize("truncation", SOME_TRUNCATIONS)
def test_a_truncated_text_leaves_the_plain_one_where_it_must(
    decode: Decode, model: LanguageModel, params: dict, truncation: str
) -> None:
    plain = decode(_rows([1.0] * 3, [0, 1, 2]), 60)
    found = decode(_rows([1.0] * 3, [0, 1, 2], **TRUNCATIONS[truncation]), 60)
    policy = build_policy(scale=[0.0], **TRUNCATIONS[truncation])
    for row, (plain_T, found_T) in enumerate(zip(plain, found, strict=True)):
        differ = np.flatnonzero(plain_T != found_T)
        assert len(differ) == 0 if truncation == "plain" else len(differ) > 0
        for first in differ[:1]:
            read = jnp.asarray(np.concatenate([PROMPT, plain_T[:first]])[None])
            logits_BTV, _ = model.apply(params, read, model.initial_state(1, 0))
            may_V = np.asarray(probabilities(logits_BTV[:, -1], policy))[0] > 0
            drawn = (row, first, plain_T[: first + 1], found_T[first], np.flatnonzero(may_V))
            assert may_V[found_T[first]] and not may_V[plain_T[first]], drawn


# What takes a key in jax.random and only names it, or derives others from it.
_NAMES = {"key", "PRNGKey", "key_data", "key_impl", "wrap_key_data", "clone"}


@pytest.mark.core
@pytest.mark.parametrize("mode", ["carried", "window"])
def test_no_key_is_used_twice(
    model: LanguageModel, params: dict, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent: list[tuple[int, ...]] = []
    parents: list[tuple[int, ...]] = []

    def spy(function: Callable, taken: list[tuple[int, ...]]) -> Callable:
        def take(key: jax.Array, *rest: object, **named: object) -> jax.Array:
            jax.debug.callback(
                lambda words: taken.extend(map(tuple, words.reshape(-1, 2).tolist())),
                jax.random.key_data(key),
            )
            return function(key, *rest, **named)

        return take

    for name, function in list(vars(jax.random).items()):
        if callable(function) and name not in _NAMES and not name.startswith("_"):
            taken = parents if name == "fold_in" else spent
            monkeypatch.setattr(jax.random, name, spy(function, taken))
    samples, characters = 3, 75  # whole pieces in both modes
    rows = SampleBatch(
        jnp.tile(sample_keys(0, samples), 2),
        build_policy(scale=[0.5] * samples + [2.0] * samples, top_k=[0, 1, 2, 3, 4, 5]),
    )
    list(make_decoder(model, mode=mode, context=8)(params, PROMPT, rows, characters))
    jax.effects_barrier()
    uses = Counter(spent)
    assert len(uses) == samples * characters
    assert set(uses.values()) == {2}  # once at each scale, which share their noise
    assert parents and not set(parents) & set(spent)


@pytest.mark.parametrize("characters", [0, 1, 24, 25, 26, 51])
@pytest.mark.parametrize("truncation", ["plain", "all"])
def test_a_longer_sample_begins_with_the_shorter_one(
    decode: Decode, characters: int, truncation: str
) -> None:
    rows = _rows([1.0], [0], **TRUNCATIONS[truncation])
    longest = decode(rows, 60)
    assert longest.shape == (1, 60)
    shorter = decode(rows, characters)
    np.testing.assert_array_equal(shorter, longest[:, :characters])


@pytest.mark.core
@pytest.mark.parametrize("mode", ["carried", "window"])
@pytest.mark.parametrize("first", [1, 24, 25, 40])
def test_a_text_in_two_parts_is_the_whole_one(decode: Decode, mode: str, first: int) -> None:
    rows = _rows([1.0], [2])
    whole = decode(rows, 60, mode)
    read = np.concatenate([PROMPT, whole[0, :first]])
    rest = decode(rows, 60 - first, mode, prompt=read, drawn=first)
    np.testing.assert_array_equal(rest, whole[:, first:])
    assert not np.array_equal(decode(rows, 60 - first, mode, prompt=read), rest)


def test_greedy_is_the_same_for_every_key_and_draws_are_not(decode: Decode) -> None:
    greedy = decode(_rows([float("inf")] * 3, [0, 1, 2]), 40)
    assert (greedy == greedy[0]).all()
    drawn = decode(_rows([1.0] * 3, [0, 1, 2]), 40)
    assert len({tuple(row) for row in drawn}) == 3


@pytest.mark.parametrize("length", [1, 2, 3, 300])
def test_a_prompt_of_any_length_is_read_whole(
    model: LanguageModel, params: dict, decode: Decode, length: int
) -> None:
    prompt = np.arange(length) % V
    found = decode(_rows([float("inf")], [0]), 1, prompt=prompt)
    logits, _ = model.apply(params, jnp.asarray(prompt[None]), model.initial_state(1, 0))
    assert found[0, 0] == int(jnp.argmax(logits[0, -1]))


def test_more_characters_compile_nothing_new(model: LanguageModel, params: dict) -> None:
    decoder, rows = make_decoder(model, mode="carried", context=8), _rows([1.0], [0])
    list(decoder(params, PROMPT, rows, 10))
    with jax.no_tracing():
        list(decoder(params, PROMPT, rows, 300))
        list(decoder(params, PROMPT[1:], rows, 33))


@pytest.mark.parametrize("mode", ["carried", "window"])
def test_other_numbers_of_a_policy_compile_nothing_new(
    model: LanguageModel, params: dict, mode: str
) -> None:
    decoder = make_decoder(model, mode=mode, context=8)
    rows = _rows([1.0, 2.0], [0, 1], top_k=4, top_p=[0.5, 1.0])
    other = _rows([0.0, float("inf")], [5, 3], seed=1, top_k=[0, 10**6], top_p=0.0)
    plain = _rows([1.0, 2.0], [0, 1])
    list(decoder(params, PROMPT, rows, 3))
    with jax.no_tracing():
        list(decoder(params, PROMPT, other, 3))
        with pytest.raises(RuntimeError, match="trac"):  # so another program would be noticed
            list(decoder(params, PROMPT, plain, 3))


def test_an_unknown_mode_is_refused(model: LanguageModel) -> None:
    with pytest.raises(CharlmError, match=r"^mode='carry' is not known.* carried, window"):
        make_decoder(model, mode="carry", context=8)


@pytest.mark.parametrize("mode", ["carried", "window"])
def test_rows_at_once_are_bounded_by_state_characters_and_logits(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Model:
        def initial_state(self, rows: int, context: int) -> tuple[jax.Array, ...]:
            return (jnp.zeros((rows, context + 1, 100)), jnp.zeros((rows, 10), jnp.uint8))

    model: Any = Model()
    for bound in ("_STATE_BYTES_AT_ONCE", "_CHARACTERS_AT_ONCE", "_LOGITS_AT_ONCE"):
        monkeypatch.setattr(f"charlm_jax.sampling.decoding.{bound}", 2**60)

    def rows(bound: str, value: int) -> int:
        with monkeypatch.context() as patch:
            patch.setattr(f"charlm_jax.sampling.decoding.{bound}", value)
            return rows_at_once(model, mode=mode, context=7, symbols=50)

    state, read = {"carried": (8 * 400 + 10, 256), "window": (400 + 10, 7)}[mode]
    assert rows("_STATE_BYTES_AT_ONCE", 5 * state + 1) == 5
    assert rows("_CHARACTERS_AT_ONCE", 5 * read + 1) == 5
    assert rows("_LOGITS_AT_ONCE", 5 * read * 50 + 1) == 5
    assert rows("_STATE_BYTES_AT_ONCE", 1) == 1


@pytest.mark.parametrize(
    ("count", "most", "sizes"), [(5, 8, [5]), (9, 8, [5, 5]), (16, 8, [8, 8]), (17, 8, [6, 6, 6])]
)
def test_rows_are_split_into_few_batches_of_one_size(
    count: int, most: int, sizes: list[int]
) -> None:
    policy = build_policy(scale=[float(index) for index in range(count)])
    batches = split_rows(SampleBatch(sample_keys(1, count), policy), most)
    assert [len(batch.keys_B) for batch in batches] == sizes
    keys_B = np.concatenate([np.asarray(jax.random.key_data(x.keys_B)) for x in batches])
    expected_B = np.asarray(jax.random.key_data(sample_keys(1, count)))
    np.testing.assert_array_equal(keys_B[:count], expected_B)
    assert (keys_B[count:] == expected_B[-1]).all()
