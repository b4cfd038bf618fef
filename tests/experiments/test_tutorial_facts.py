"""The figures of the textbook's chapter, one test each, and the command that prints them all.

Source: Raschka and Mirjalili, Python Machine Learning, 3rd edition (2019), chapter 16, part 2.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from charlm_jax.config.loading import load_config
from charlm_jax.config.schema import Config
from charlm_jax.core.trees import count_parameters
from charlm_jax.data import download
from charlm_jax.data.corpora import BOOK_MARKERS
from charlm_jax.data.decoding import decode
from charlm_jax.data.download import MYSTERIOUS_ISLAND
from charlm_jax.data.loaders import EpochPlan, Loader, build_loader, gather_batch
from charlm_jax.data.vocabulary import Vocabulary
from charlm_jax.inference.trained_model import TrainedModel
from charlm_jax.models import build_model
from charlm_jax.models.losses import negative_log_likelihood
from charlm_jax.models.summary import summarize
from charlm_jax.sampling.categorical import (
    gumbel_noise,
    sample_keys,
    scaled_categorical,
    scaled_probabilities,
)
from charlm_jax.training.loop import train_and_evaluate
from charlm_jax.training.trainer import build_optimizer
from experiments.tutorial import __main__ as tutorial
from tests.conftest import compiled_model, make_model_config

CHARACTERS, SYMBOLS = 1_112_350, 80
FIRST_CHUNK = "THE MYSTERIOUS ISLAND ***\n\n\n\n\nProduced by"
SECOND_CHUNK = " Anthony Matonak, and Trevor Carlson\n\n\n\n\n"
SCALED = {
    1.0: (0.10650698, 0.10650698, 0.78698604),
    0.5: (0.21194156, 0.21194156, 0.57611688),
    0.1: (0.31042377, 0.31042377, 0.37915245),
}


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config("tutorial")


@pytest.fixture(scope="module")
def loader(config: Config) -> Loader:
    data = config.data
    return build_loader(
        data.loader,
        part=(range(CHARACTERS),),
        sequence_length=data.sequence_length,
        batch_size=data.batch_size,
    )


@pytest.fixture(scope="module")
def plan(loader: Loader) -> EpochPlan:
    return loader.plan(jax.random.key(1), 0)


# The text.


def test_the_slice_lies_where_the_chapter_finds_it(book: str) -> None:
    data, _ = download.fetch(MYSTERIOUS_ISLAND)
    text = decode(data, encoding="utf-8", source="the book")
    assert tuple(map(text.find, BOOK_MARKERS)) == (567, 1_112_917)
    assert text[567:1_112_917] == book


def test_characters_and_symbols(book: str) -> None:
    assert (len(book), len(set(book))) == (CHARACTERS, SYMBOLS)
    assert Vocabulary.from_text(book).symbols == "".join(sorted(set(book)))


def test_encoding_and_decoding(book: str) -> None:
    vocabulary = Vocabulary.from_text(book)
    ids = [44, 32, 29, 1, 37, 48, 43, 44, 29, 42, 33, 39, 45, 43, 1]
    assert vocabulary.encode("THE MYSTERIOUS ").tolist() == ids
    assert vocabulary.decode(np.array([33, 43, 36, 25, 38, 28])) == "ISLAND"
    assert [vocabulary.decode(np.array([i])) for i in (44, 32, 29, 1, 37)] == list("THE M")


def test_the_first_two_chunks(book: str, config: Config) -> None:
    vocabulary = Vocabulary.from_text(book)
    inputs_BT, targets_BT = gather_batch(
        jnp.asarray(vocabulary.encode(book)),
        jnp.array([0, 41]),
        sequence_length=config.data.sequence_length,
    )
    for row, chunk in enumerate((FIRST_CHUNK, SECOND_CHUNK)):
        assert vocabulary.decode(inputs_BT[row]) == chunk[:40]
        assert vocabulary.decode(targets_BT[row]) == chunk[1:]
    assert targets_BT[0, -1] == 74 and vocabulary.decode(targets_BT[0, -1:]) == "y"


# Chunks and batches, from the length of the text alone.


def test_an_epoch_is_424_batches_the_last_of_58(loader: Loader, plan: EpochPlan) -> None:
    assert loader.characters_per_epoch == 27_130 * 40
    assert loader.steps_per_epoch == 424
    assert plan.mask_EB.shape == (424, 64)
    rows_E = plan.mask_EB.sum(axis=1)
    assert (rows_E[:-1] == 64).all() and rows_E[-1] == 58


def test_chunks_are_consecutive_pieces_of_41_in_another_order(plan: EpochPlan) -> None:
    starts = np.asarray(plan.starts_EB)[np.asarray(plan.mask_EB)]
    assert sorted(starts) == list(range(0, 27_130 * 41, 41))
    assert CHARACTERS - 27_130 * 41 == 20  # dropped
    assert (np.diff(starts) == 41).mean() < 0.01


def test_deep_learn_is_followed_by_i() -> None:
    vocabulary = Vocabulary.from_text("Deep Learning")
    ids_N = jnp.asarray(vocabulary.encode("Deep Learning"))
    (x_T,), (y_T,) = gather_batch(ids_N, jnp.array([0]), sequence_length=10)
    assert (vocabulary.decode(x_T), vocabulary.decode(y_T)) == ("Deep Learn", "eep Learni")


# The model and its training.


def test_layers_shapes_and_parameters(config: Config) -> None:
    modules = summarize(config.model, SYMBOLS)
    assert [(module.kind, module.output_shape, module.parameters) for module in modules] == [
        ("embedding", ("B", "T", 256), 20_480),
        ("lstm", ("B", "T", 512), 1_574_912),
        ("dense", ("B", "T", 80), 41_040),
    ]
    params = jax.eval_shape(build_model(config.model, SYMBOLS).init, jax.random.key(0))
    assert count_parameters(params) == sum(module.parameters for module in modules) == 1_636_432


def test_training_is_20_epochs_of_adam_at_its_default_rate(config: Config, loader: Loader) -> None:
    assert config.train.epochs == 20 and config.train.max_steps == 0
    assert config.split.kind == "none"
    schedule, adam = build_optimizer(config, 20 * loader.steps_per_epoch)
    # While the gradient stays the same, both of Adam's averages are it: every step is one rate
    # long, whatever its size.
    gradient = jnp.array([5.0, -300.0])
    state = adam.init(jnp.zeros(2))
    for _ in range(3):
        update, state = adam.update(gradient, state)
        np.testing.assert_allclose(update, [-1e-3, 1e-3], rtol=1e-4)
    assert schedule(20 * loader.steps_per_epoch - 1) == schedule(0)


def test_the_loss_is_softmax_cross_entropy_on_logits() -> None:
    logits = jnp.array([[[1.0, 1.0, 3.0], [0.0, 0.0, 0.0]]])
    nll_BT = negative_log_likelihood(logits, jnp.array([[2, 0]]))
    np.testing.assert_allclose(nll_BT, [[-math.log(0.78698604), math.log(3)]], rtol=1e-6)


def test_the_books_training_losses() -> None:
    losses = tutorial.BOOK_LOSS_NATS
    assert len(losses) == 20 and (losses[0], losses[-1]) == (2.3011, 1.0337)
    assert list(losses) == sorted(losses, reverse=True)
    assert sum(losses) == pytest.approx(25.4478)


# Drawing characters.


@pytest.mark.parametrize("scale", SCALED)
def test_scaled_softmax(scale: float) -> None:
    (probs_V,) = scaled_probabilities(jnp.array([[1.0, 1.0, 3.0]]), jnp.array([scale]))
    np.testing.assert_allclose(probs_V, SCALED[scale], rtol=0, atol=1e-7)


def draws(logits: Sequence[float], scale: float, count: int) -> np.ndarray:
    noise_BV = gumbel_noise(sample_keys(1, count), jnp.array(0), len(logits))
    logits_BV = jnp.tile(jnp.array([logits]), (count, 1))
    return np.asarray(scaled_categorical(logits_BV, noise_BV, jnp.full(count, scale)))


@pytest.mark.parametrize(
    ("logits", "probabilities"), [((1.0, 1.0, 1.0), [1 / 3] * 3), ((1.0, 1.0, 3.0), SCALED[1.0])]
)
def test_draws_are_as_frequent_as_the_softmax_says(
    logits: Sequence[float], probabilities: Sequence[float]
) -> None:
    counts = np.bincount(draws(logits, 1.0, 3000), minlength=3)
    expected = np.array(probabilities) / sum(probabilities) * 3000
    assert stats.chisquare(counts, expected).pvalue > 1e-3
    assert draws(logits, 1.0, 10).shape == (10,)


@pytest.fixture(scope="module")
def small(config: Config) -> TrainedModel:
    """A small untrained model whose weights are large, so that it remembers 40 characters."""
    vocabulary = Vocabulary("".join(sorted(set(FIRST_CHUNK + SECOND_CHUNK + "The island"))))
    model = compiled_model(make_model_config("lstm"), len(vocabulary))
    params = jax.tree.map(lambda w: 5.0 * w, model.init(jax.random.key(0)))
    return TrainedModel(config, vocabulary, model, params)


def drawn(run: TrainedModel, prompt: str, characters: int, scale: float, seed: int = 1) -> str:
    return run.generate(prompt, characters=characters, scale=scale, seed=seed, mode="window")


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_the_sampler_reads_the_last_40_characters_again(small: TrainedModel, scale: float) -> None:
    prompt = "The island"
    text = drawn(small, prompt, 500, scale)
    assert len(text) == 500
    ids_N = small.vocabulary.encode(prompt + text).astype(np.int32)
    windows_BT = np.lib.stride_tricks.sliding_window_view(ids_N[:-1], 40)
    state = small.model.initial_state(len(windows_BT), 0)
    logits_BTV, _ = small.model.apply(small.params, jnp.asarray(windows_BT), state)
    first = 40 - len(prompt)  # the first character drawn with a full window
    noise_of = jax.jit(
        jax.vmap(lambda n: gumbel_noise(sample_keys(1, 1), n, len(small.vocabulary))[0])
    )
    noise_BV = noise_of(jnp.arange(first, 500))
    ids_B = jnp.argmax(scale * logits_BTV[:, -1] + noise_BV, axis=-1)
    np.testing.assert_array_equal(ids_B, ids_N[40:])


def test_greedy_decoding_always_gives_the_same_text(small: TrainedModel) -> None:
    greedy = [drawn(small, "The island", 60, math.inf, seed) for seed in (1, 2)]
    assert greedy[0] == greedy[1]
    assert drawn(small, "The island", 60, 1.0, 1) != drawn(small, "The island", 60, 1.0, 2)
    assert (draws((1.0, 1.0, 3.0), math.inf, 100) == 2).all()


def test_text_may_start_from_one_character(small: TrainedModel) -> None:
    assert len(drawn(small, "T", 50, 1.0)) == 50


# The script. What it shows of self-attention is tested in test_tutorial_attention.py.


def test_the_script_without_book_and_model_shows_the_rest(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.delenv("CHARLM_CORPORA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("socket.getaddrinfo", offline)
    assert tutorial.main([f"--workdir={tmp_path / 'none'}"]) == 1
    shown = capsys.readouterr().out
    for figure in ("cannot download 1268-0.txt", "no run at", "27,130", "424 steps", "1,636,432"):
        assert figure in shown
    assert "scale 0.5  0.211942  0.211942  0.576117" in shown
    assert "followed by 'i'" in shown and "random embeddings" in shown
    assert not (tmp_path / "none").exists()


@pytest.mark.exhaustive
def test_the_script_shows_what_a_trained_model_draws(
    tiny_config: Config,
    book: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text_file, workdir = tmp_path / "text.txt", tmp_path / "run"
    text_file.write_text("The island and the sea, Deep Learning.\n" * 60, encoding="utf-8")
    data = dataclasses.replace(tiny_config.data, corpus=str(text_file))
    train_and_evaluate(dataclasses.replace(tiny_config, data=data), workdir)
    figure = tmp_path / "curve.png"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tutorial.main(["--skip_training", f"--workdir={workdir}", "--figure=~/curve.png"]) == 0
    shown = capsys.readouterr().out
    for expected in ("567", "1112917", "1,112,350", "symbols 80", "2.3011", "-> 'ISLAND'"):
        assert expected in shown
    assert shown.count("The island") >= 3 and "trained embeddings" in shown
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_a_mistake_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tutorial.main(["--epochs=0", f"--workdir={tmp_path}"]) == 2
    err = capsys.readouterr().err
    assert "config.train.epochs=0 is not allowed" in err and err.count("\n") == 1
    with pytest.raises(SystemExit) as stop:
        tutorial.main(["--epochs=many"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
