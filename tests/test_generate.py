"""Decoding: what is drawn depends on the prompt, the sample's key and its scale alone."""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charlm_jax.generate import Rows, make_decoder
from charlm_jax.models import LanguageModel, build_model
from charlm_jax.sampling import gumbel_noise, sample_keys
from charlm_jax.types import CharlmError
from tests.conftest import make_model_config

V = 9
PROMPT = np.array([3, 1, 4, 1, 5], np.uint8)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return build_model(make_model_config("lstm", "gru", init="flax"), V)


@pytest.fixture(scope="module")
def params(model: LanguageModel) -> dict:
    return jax.tree.map(lambda w: 4.0 * w, model.init(jax.random.key(0)))


def _rows(scales: list[float], samples: list[int], seed: int = 0) -> Rows:
    keys = sample_keys(seed, max(samples) + 1)[jnp.array(samples)]
    return Rows(keys, jnp.array(scales))


Decode = Callable[..., np.ndarray]


@pytest.fixture(scope="module", autouse=True)
def short_pieces() -> Iterator[None]:
    """A text of these tests is drawn in several dispatches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("charlm_jax.generate._CARRIED_PIECE", 25)
        yield


@pytest.fixture(scope="module")
def decode(model: LanguageModel, params: dict) -> Decode:
    """(rows, characters, mode, context, prompt) -> ids_BT; every decoder is built once."""
    build = functools.cache(functools.partial(make_decoder, model))

    def run(
        rows: Rows,
        characters: int,
        mode: str = "carried",
        context: int = 8,
        prompt: np.ndarray = PROMPT,
    ) -> np.ndarray:
        pieces = list(build(mode=mode, context=context)(params, prompt, rows, characters))
        return np.concatenate([np.zeros((len(rows.scale_B), 0), int), *pieces], axis=1)

    return run


@pytest.fixture(scope="module")
def reference(model: LanguageModel, params: dict) -> Callable[[Rows, int, int], np.ndarray]:
    """The textbook's loop: read the last characters again, one by one, scale, draw, append."""
    read = jax.jit(model.apply)

    def run(rows: Rows, characters: int, window: int) -> np.ndarray:
        texts = []
        for key, scale in zip(rows.keys_B, rows.scale_B, strict=True):
            text = list(map(int, PROMPT))
            for number in range(characters):
                state = model.initial_state(1, 0)
                for symbol in text[-window:]:
                    logits_BTV, state = read(params, jnp.array([[symbol]]), state)
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


def test_both_agree_until_the_window_is_full_and_not_after(decode: Decode) -> None:
    rows = _rows([1.0] * 4, [0, 1, 2, 3])
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


@pytest.mark.parametrize("characters", [0, 1, 24, 25, 26, 51])
def test_a_longer_sample_begins_with_the_shorter_one(decode: Decode, characters: int) -> None:
    rows = _rows([1.0], [0])
    longest = decode(rows, 60)
    assert longest.shape == (1, 60)
    shorter = decode(rows, characters)
    np.testing.assert_array_equal(shorter, longest[:, :characters])


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


def test_an_unknown_mode_is_refused(model: LanguageModel) -> None:
    with pytest.raises(CharlmError, match="carried, window"):
        make_decoder(model, mode="carry", context=8)
