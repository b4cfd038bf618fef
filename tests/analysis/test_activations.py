"""Looking inside a model: what is captured, and the command that draws it."""

import json
import struct
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread

from charlm_jax.analysis.activations import (
    MOST_CHARACTERS,
    Activations,
    LayerActivations,
    capture_activations,
    mean_attention_distance,
)
from charlm_jax.cli import main
from charlm_jax.core.errors import CharlmError
from charlm_jax.inference.run import Run, load_run
from charlm_jax.models import build_model
from charlm_jax.report.figures import activation_maps as figures
from tests.conftest import ROOT, TINY, make_model_config

SYMBOLS = "\n abc"
IDS_T = np.array([2, 3, 0, 1, 2, 4, 3, 3, 1, 4])
HEADS = {"hidden_size": 6, "heads": 2}

LAYERS = {
    "lstm": ({"forget_gate", "input_gate", "output_gate"}, ["candidate", "cell"]),
    "gru": ({"reset_gate", "update_gate"}, ["candidate", "hidden"]),
    "mingru": ({"update_gate"}, ["candidate", "hidden"]),
    "minlstm": ({"forget_gate", "input_gate"}, ["candidate", "hidden"]),
    "gated_deltanet": ({"forget_gate", "rate_gate"}, ["hidden"]),
    "mamba2": ({"forget_gate"}, ["hidden"]),
    "mlstm": ({"forget_gate", "output_gate"}, ["hidden"]),
    "slstm": ({"forget_gate", "input_gate", "output_gate"}, ["candidate", "cell"]),
    "rglru": ({"recurrence_gate", "input_gate"}, ["hidden"]),
    "rnn": (set(), ["hidden"]),
}


@cache
def look(*layers: str, length: int = len(IDS_T), **changes: object) -> Activations:
    model = build_model(make_model_config(*layers, **{**HEADS, **changes}), len(SYMBOLS))
    params = jax.jit(model.init)(jax.random.key(3))
    return capture_activations(model, params, IDS_T[:length], symbols=SYMBOLS, kinds=layers)


# What is captured.


def test_what_is_seen_is_what_inspect_captures() -> None:
    layers = ("lstm", "attention")
    inside = look(*layers)
    model = build_model(make_model_config(*layers, **HEADS), len(SYMBOLS))
    params, ids_BT = jax.jit(model.init)(jax.random.key(3)), jnp.asarray(IDS_T)[None, :]
    captured = jax.jit(model.inspect)(params, ids_BT, model.initial_state(1, 0))
    assert inside.symbols == "ab\n acbb c"
    assert [(layer.name, layer.kind) for layer in inside.layers] == [
        ("layer_0", "lstm"),
        ("layer_1", "attention"),
    ]
    np.testing.assert_allclose(inside.logits_TV, captured["logits"][0], rtol=1e-5, atol=1e-6)
    for layer in inside.layers:
        assert layer.arrays.keys() == captured[layer.name].keys()
        for name, seen in layer.arrays.items():
            assert isinstance(seen, np.ndarray) and len(seen) == len(IDS_T)
            np.testing.assert_allclose(seen, captured[layer.name][name][0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", list(LAYERS))
def test_gates_and_states_of_recurrent_layers(kind: str) -> None:
    (layer,) = look(kind, embedding_size=6, block="pre_norm").layers
    gates, states = LAYERS[kind]
    assert set(layer.gates) == gates and list(layer.states) == states
    assert layer.distance_H is None
    for name, x_TH in {**layer.gates, **layer.states}.items():
        # The inner channels of mamba2 are twice as wide.
        assert x_TH.shape == (len(IDS_T), 12 if kind == "mamba2" else 6), name
    assert all(x_TH.min() >= 0.0 and x_TH.max() <= 1.0 for x_TH in layer.gates.values())


@pytest.mark.parametrize("kind", ["attention", "self_attention"])
def test_weights_are_probabilities_and_causal(kind: str) -> None:
    heads = 2 if kind == "attention" else 1
    (layer,) = look(kind, embedding_size=6, precision="bfloat16").layers
    weights_THS = layer.arrays["weights"]
    assert weights_THS.shape == (len(IDS_T), heads, len(IDS_T))
    np.testing.assert_allclose(weights_THS.sum(axis=2), 1.0, rtol=1e-5)
    for position, weights_HS in enumerate(weights_THS):
        assert (weights_HS[:, position + 1 :] == 0.0).all()
    assert not layer.gates and not layer.states
    np.testing.assert_array_equal(layer.distance_H, mean_attention_distance(weights_THS))


def test_a_shorter_text_is_seen_as_the_beginning_of_the_longer() -> None:
    whole, part = look("lstm", "attention"), look("lstm", "attention", length=6)
    assert part.symbols == whole.symbols[:6]
    np.testing.assert_allclose(part.logits_TV, whole.logits_TV[:6], rtol=1e-5, atol=1e-6)
    for there, here in zip(whole.layers, part.layers, strict=True):
        for name, seen in here.arrays.items():
            same = there.arrays[name][:6]
            same = same[:, :, :6] if name == "weights" else same
            np.testing.assert_allclose(seen, same, rtol=1e-5, atol=1e-6)


def test_layers_come_in_the_order_of_the_stack_when_there_are_more_than_ten() -> None:
    layers = look(*["rnn"] * 10, "attention").layers
    assert [layer.name for layer in layers] == [f"layer_{index}" for index in range(11)]
    assert [layer.distance_H is None for layer in layers] == [True] * 10 + [False]


def test_guesses_are_the_likeliest_next_characters() -> None:
    inside = look("lstm", "attention")
    probability_TV = np.asarray(jax.nn.softmax(inside.logits_TV))
    for guesses, row_V in zip(inside.top_predictions, probability_TV, strict=True):
        best = sorted(zip(row_V.tolist(), SYMBOLS, strict=True), reverse=True)[:3]
        assert [symbol for symbol, _ in guesses] == [symbol for _, symbol in best]
        expected = pytest.approx([probability for probability, _ in best], rel=1e-5)
        assert [probability for _, probability in guesses] == expected


def test_weights_of_another_form_are_not_attention() -> None:
    gates_TH = np.ones((4, 3), np.float32)
    layer = LayerActivations("layer_0", "mine", {"weights": gates_TH})
    assert layer.distance_H is None and list(layer.states) == ["weights"]


# How far attention looks.


def test_mean_attention_distance_by_hand() -> None:
    weights_TS = np.array([[1.0, 0.0, 0.0], [0.25, 0.75, 0.0], [0.5, 0.25, 0.25]])
    # Position 0: 0. Position 1: 0.25 x 1. Position 2: 0.5 x 2 + 0.25 x 1.
    by_hand = (0.0 + 0.25 + 1.25) / 3
    weights_THS = np.stack([weights_TS, np.eye(3)], axis=1)
    np.testing.assert_allclose(mean_attention_distance(weights_THS), [by_hand, 0.0])


@pytest.mark.parametrize("length", [1, 2, 9])
def test_equal_weights_look_back_a_quarter_of_the_text(length: int) -> None:
    weights_TS = np.tril(np.ones((length, length))) / np.arange(1, length + 1)[:, None]
    distance_H = mean_attention_distance(weights_TS[:, None, :])
    np.testing.assert_allclose(distance_H, [(length - 1) / 4])


def test_positions_kept_from_before_lie_further_back() -> None:
    first_THS = np.tile(np.array([1.0, 0.0, 0.0, 0.0]), (2, 1, 1))
    # The last two of four positions look at the first of them: 2 and 3 back.
    np.testing.assert_allclose(mean_attention_distance(first_THS), [2.5])


# Texts that cannot be looked at.


def test_a_text_beyond_the_places_of_the_model_is_an_error() -> None:
    learned = {"embedding_size": 6, "position": "learned", "max_length": 9}
    assert look("attention", length=9, **learned).symbols == "ab\n acbb "
    with pytest.raises(CharlmError, match=r"10 characters, and this model reads at most 9"):
        look("attention", **learned)


def test_a_text_beyond_the_limit_is_an_error() -> None:
    model, ids_T = build_model(make_model_config("rnn"), 2), np.zeros(MOST_CHARACTERS + 1, int)
    with pytest.raises(CharlmError, match="2001 characters, and inspect reads at most 2000"):
        capture_activations(model, {}, ids_T, symbols="ab", kinds=("rnn",))


def test_numbers_that_are_not_finite_are_an_error() -> None:
    model = build_model(make_model_config("rnn"), len(SYMBOLS))
    params = jax.tree.map(
        lambda x: jnp.full_like(x, jnp.nan), jax.jit(model.init)(jax.random.key(0))
    )
    with pytest.raises(CharlmError, match="not finite"):
        capture_activations(model, params, IDS_T, symbols=SYMBOLS, kinds=("rnn",))


# A run, and the command.


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inside") / "run"
    changes = {"train.max_steps": 4, "train.evaluate_every_steps": 2, "model.heads": 2}
    fields = {**TINY, **changes, "model.layers": "lstm,attention"}
    base = ROOT / "configs" / "base.py"
    overrides = [f"--config.{field}={value}" for field, value in fields.items()]
    assert main(["train", f"--config={base}", f"--workdir={path}", *overrides]) == 0
    return path


@pytest.fixture(scope="module")
def run(workdir: Path) -> Run:
    return load_run(workdir)


def test_unknown_characters_are_refused_dropped_or_replaced(run: Run) -> None:
    with pytest.raises(CharlmError, match=r"'@' \(U\+0040\)"):
        run.inspect("ab@c")
    assert run.inspect("ab@c", unknown="drop").symbols == "abc"
    assert run.inspect("ab@c", unknown="replace", replacement="d").symbols == "abdc"
    for text, says in (("", "is empty"), ("@", "no character that the model knows")):
        with pytest.raises(CharlmError, match=says):
            run.inspect(text, unknown="drop")


def inspect(workdir: Path, *flags: str) -> None:
    assert main(["inspect", f"--workdir={workdir}", *flags]) == 0


def size(file: Path) -> tuple[int, int]:
    """Width and height as the header of a PNG has them."""
    data = file.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR"
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def test_the_command_draws_every_layer(
    workdir: Path, run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    inspect(workdir, "--text=abcdabcd", f"--out={tmp_path / 'new' / 'folder'}")
    *files, blank, title, heads, row = capsys.readouterr().out.splitlines()
    names = ["layer_0_gates", "layer_1_attention", "attention_distance"]
    assert [Path(file).name.split("_step_")[0] for file in files] == names
    assert sorted(files) == sorted(map(str, (tmp_path / "new" / "folder").iterdir()))
    for file in map(Path, files):
        width, height = size(file)
        pixels = imread(file)
        assert pixels.shape[:2] == (height, width)
        assert 400 < width < 3500 and 400 < height < 3500
        assert len(np.unique(pixels[:, :, 0])) > 20
    assert blank == "" and title.startswith("mean attention distance in characters")
    assert heads.split() == ["0", "1"]
    name, *distances = row.split()
    expected = run.inspect("abcdabcd").layers[1].distance_H
    assert name == "layer_1" and list(map(float, distances)) == pytest.approx(expected, abs=0.006)


def test_the_command_as_json(
    workdir: Path, run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flags = ["--text=ab@cd", "--unknown=drop", f"--out={tmp_path}", "--json"]
    inspect(workdir, *flags)
    (line,) = capsys.readouterr().out.splitlines()
    said = json.loads(line)
    assert list(said) == (
        "text workdir checkpoint weights symbols guesses files layers".split()  # noqa: SIM905
    )
    assert said["text"] == "ab@cd" and said["symbols"] == ["a", "b", "c", "d"]
    assert said["checkpoint"] == run.checkpoint and said["weights"] == "raw"
    assert all(size(Path(file)) for file in said["files"]) and len(said["files"]) == 3
    assert [len(guesses) for guesses in said["guesses"]] == [3] * 4
    lstm, attention = said["layers"]
    seen = run.inspect("abcd").layers
    assert lstm["name"] == "layer_0" and lstm["kind"] == "lstm"
    assert list(lstm["unit_means"]) == [*seen[0].gates, *seen[0].states]
    for name, means_H in lstm["unit_means"].items():
        assert means_H == pytest.approx(seen[0].arrays[name].mean(axis=0), rel=1e-5)
    assert attention["mean_attention_distance"] == pytest.approx(seen[1].distance_H)
    assert "unit_means" not in attention and "mean_attention_distance" not in lstm


def test_only_the_same_command_replaces_a_figure(
    workdir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def write(*arguments: object, **_: object) -> None:
        path = next(path for path in arguments if isinstance(path, Path))
        path.parent.mkdir(exist_ok=True)
        path.touch()

    monkeypatch.setattr(figures, "save_figure", write)

    def files(place: Path, *flags: str) -> set[Path]:
        inspect(place, *flags)
        return set(map(Path, capsys.readouterr().out.partition("\n\n")[0].splitlines()))

    (tmp_path / "copy").mkdir()
    for path in workdir.rglob("*"):
        target = tmp_path / "copy" / path.relative_to(workdir)
        target.mkdir(parents=True) if path.is_dir() else target.write_bytes(path.read_bytes())
    first = files(workdir, "--text=ab")
    assert first == files(workdir, "--text=ab") == set((workdir / "inspect").iterdir())
    other_text = files(workdir, "--text=ba")
    other_step = files(workdir, "--text=ab", "--checkpoint=2")
    assert all("_step_2_" in file.name for file in other_step)
    assert set((workdir / "inspect").iterdir()) == first | other_text | other_step
    out = f"--out={tmp_path / 'figures'}"
    one, two = (files(place, "--text=ab", out) for place in (workdir, tmp_path / "copy"))
    assert {file.name for file in one} == {file.name for file in first}
    assert set((tmp_path / "figures").iterdir()) == one | two
    assert len(first | other_text | other_step) == 9 and len(one | two) == 6
