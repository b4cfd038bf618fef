"""A model that was exported is the model that was trained, for us and for NumPy alone."""

import dataclasses
import json
import math
import os
import runpy
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from scipy.stats import chisquare

from charlm_jax.cli import main
from charlm_jax.config.formats import newest_format
from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
from charlm_jax.data.dataset import load_dataset
from charlm_jax.evaluation import Stream, Window
from charlm_jax.inference.export import write_export
from charlm_jax.inference.run import Run, load_run
from charlm_jax.models import build_model
from charlm_jax.storage.checkpoint import Checkpoints
from charlm_jax.storage.run_index import list_runs, run_folders
from charlm_jax.storage.seal import sealed_values
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.loop import train_and_evaluate
from charlm_jax.training.reproduce import verify_run
from charlm_jax.training.restore import load_init_from
from charlm_jax.training.trainer import build_trainer
from tests.conftest import ROOT, examples, make_model_config, make_tiny_config
from tests.models.contract import CASES

EXAMPLE = ROOT / "docs" / "examples" / "sample_with_numpy.py"
FILES = ("config.json", "model.safetensors", "vocabulary.json")
STEP = 7

# Of the contract's models, those whose trees of weights have the least in common.
MODELS = [
    "lstm-bare",
    "mingru+attention+gru",
    "self_attention-position=learned-max_length=19-window=4",
    "attention-heads=4-block=pre_norm-mlp=swiglu-position=rotary-kv_heads=2-qk_norm=True",
    "attention+attention-block=pre_norm-tied_embedding=True-zero_init=True-init=gpt2",
    "lstm-pre_norm-bfloat16",
    "gated_deltanet-bare",
    "slstm-bare",
]
# What a copy may change on the way: the sign of zero, what is not normal, and the largest.
ODD_BITS = np.array([0x80000000, 0x00000001, 0x807FFFFF, 0x7F7FFFFF, 0xFF7FFFFF], np.uint32)


def draw_params(config: Config, symbols: int, seed: int) -> Any:
    generator = np.random.default_rng(seed)
    like = jax.eval_shape(build_model(config.model, symbols).init, jax.random.key(0))
    return jax.tree.map(lambda x: generator.normal(0, 2, x.shape).astype(np.float32), like)


def build_run(folder: Path, config: Config, params: Any = None) -> Run:
    """A run whose weights are drawn, as if it were trained: nothing is compiled for it."""
    dataset, place = load_dataset(config), Workdir(folder)
    with place.held():
        place.claim(config, dataset)
    if params is None:
        params = draw_params(config, len(dataset.vocabulary), seed=3)  # greedy text: bccdbccd...
    meta = sealed_values(config, dataset)
    Checkpoints(place.checkpoints).save(STEP, params=params, training={}, meta=meta, loss_nats=None)
    return load_run(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return build_run(tmp_path_factory.mktemp("export") / "run", make_tiny_config())


@pytest.fixture(scope="module")
def exported(run: Run) -> Path:
    """Tests read it; those that damage it take a copy."""
    folder = run.workdir.parent / "exported"
    write_export(run, folder)
    return folder


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def same_bits(a: Any, b: Any) -> bool:
    bits_a, bits_b = (
        [(jax.tree_util.keystr(path), x.dtype, np.asarray(x).view(np.uint32).tolist())
         for path, x in jax.tree_util.tree_leaves_with_path(tree)]
        for tree in (a, b)
    )  # fmt: skip
    return bits_a == bits_b


def read_file(file: Path) -> tuple[dict[str, Any], bytes]:
    """The header and the bytes behind it, as the format's own page describes them."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write_file(file: Path, header: Mapping[str, Any], data: bytes) -> None:
    words = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(words)) + words + data)


# What is exported is read back.


@pytest.mark.parametrize("name", MODELS)
def test_every_bit_of_every_weight_comes_back(name: str, tmp_path: Path) -> None:
    config = dataclasses.replace(make_tiny_config(), model=CASES[name])
    params = draw_params(config, 4, seed=1)
    params["embedding"].flat[: len(ODD_BITS)] = ODD_BITS.view(np.float32)
    run = build_run(tmp_path / "run", config, params)
    assert same_bits(run.params, params)
    assert [file.name for file in write_export(run, tmp_path / "out")] == [
        "config.json",
        "vocabulary.json",
        "model.safetensors",
    ]
    again = load_run(tmp_path / "out")
    assert same_bits(again.params, params)
    assert (again.config, again.vocabulary) == (run.config, run.vocabulary)
    assert (again.checkpoint, again.weights) == (STEP, "raw")


def test_the_file_is_what_its_format_says(run: Run, exported: Path) -> None:
    header, data = read_file(exported / "model.safetensors")
    facts = json.loads(header.pop("__metadata__")["charlm_jax"])
    assert facts["format"] == newest_format()
    assert facts["checkpoint"] == STEP and facts["weights"] == "raw"
    assert facts["fingerprint"] == Workdir(run.workdir).read_fingerprint()
    assert sorted(header) == [
        "embedding",
        "layer_0.mixer.input.bias",
        "layer_0.mixer.input.kernel",
        "layer_0.mixer.recurrent_kernel",
        "output.bias",
        "output.kernel",
    ]
    (first, end), shape = (header["output.kernel"][k] for k in ("data_offsets", "shape"))
    assert shape == [6, 4] and header["output.kernel"]["dtype"] == "F32"
    assert data[first:end] == np.asarray(run.params["output"]["kernel"]).tobytes()
    for name in ("config.json", "vocabulary.json"):
        assert (exported / name).read_bytes() == (run.workdir / name).read_bytes()


def test_weights_that_lie_transposed_in_memory_are_written_as_they_read(
    run: Run, tmp_path: Path
) -> None:
    params = jax.tree.map(lambda x: np.asfortranarray(np.asarray(x)), run.params)
    write_export(dataclasses.replace(run, params=params), tmp_path / "out")
    assert same_bits(load_run(tmp_path / "out").params, run.params)


def test_an_exported_model_draws_and_scores_as_the_run_does(run: Run, exported: Path) -> None:
    again = load_run(exported)
    for told in ({"scale": 0.7, "seed": 3}, {"scale": math.inf}):
        text = run.generate("ab", characters=40, **told)
        assert again.generate("ab", characters=40, **told) == text and len(set(text)) > 1
    for protocol in (Stream(), Window(3)):
        first, second = (one.score("abcdabcdbbcd", protocol) for one in (run, again))
        np.testing.assert_array_equal(first.nll_N, second.nll_N)


def test_an_exported_model_is_evaluated_on_the_text_that_it_was_trained_on(
    run: Run, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(exported, tmp_path / "copy")
    again = load_run(tmp_path / "copy")
    evaluation, nll_N = again.evaluate()
    expected, expected_N = run.evaluate()
    assert evaluation == expected
    np.testing.assert_array_equal(nll_N, expected_N)
    assert again.save_evaluation(evaluation, nll_N).parent == tmp_path / "copy" / "evaluation"
    other = load_dataset(make_tiny_config(**{"data.corpus": "synthetic:symbols=4,seed=2"}))
    monkeypatch.setattr("charlm_jax.inference.run.load_dataset", lambda *_, **__: other)
    with pytest.raises(CharlmError, match=r"has changed since .*copy was trained"):
        again.evaluate()


def test_raw_weights_and_their_average_are_two_models(tmp_path: Path) -> None:
    config = make_tiny_config(**{"optimizer.average_decay": 0.9})
    kept = {kind: draw_params(config, 4, seed) for seed, kind in enumerate(("raw", "average"))}
    run = build_run(tmp_path / "run", config, kept)
    for kind, name in (("raw", f"step_{STEP}"), ("average", f"step_{STEP}_average")):
        write_export(load_run(run.workdir, weights=kind))
        folder = run.workdir / "export" / name
        again = load_run(folder)
        assert again.weights == load_run(folder, weights=kind).weights == kind
        assert same_bits(again.params, kept[kind])
        (other,) = {"raw", "average"} - {kind}
        with pytest.raises(CharlmError, match=rf"has no weights='{other}'; available: {kind}"):
            load_run(folder, weights=other)
    with pytest.warns(UserWarning, match=r"run/run.json is missing"):
        assert [Path(row.path).name for row in list_runs(tmp_path)] == ["run"]


def test_the_checkpoint_of_an_exported_model_is_the_one_that_it_has(exported: Path) -> None:
    for checkpoint in ("best", "latest", str(STEP), STEP):
        assert load_run(exported, checkpoint=checkpoint).checkpoint == STEP
    with pytest.raises(CharlmError, match=rf"no checkpoint '8': .* was exported from {STEP}"):
        load_run(exported, checkpoint=8)


def test_the_command_writes_what_the_other_commands_read(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "out"
    assert main(["export", f"--workdir={run.workdir}", "--to=safetensors", f"--out={out}"]) == 0
    first, *files = capsys.readouterr().out.splitlines()
    assert first == f"{sum(x.size for x in jax.tree.leaves(run.params))} parameters, checkpoint 7"
    assert sorted(files) == [str(out / name) for name in FILES]
    texts = []
    for folder in (run.workdir, out):
        command = ["sample", "--prompt=ab", "--chars=20", "--seed=2", "--json"]
        assert main([*command, f"--workdir={folder}"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


# Nothing is overwritten, and nothing is left half written.


def test_the_same_export_is_the_same_bytes_and_is_not_written_again(
    run: Run, exported: Path, tmp_path: Path
) -> None:
    for number in range(4):  # the library would write several values of metadata in any order
        write_export(run, tmp_path / str(number))
        for name in FILES:
            assert (tmp_path / str(number) / name).read_bytes() == (exported / name).read_bytes()
    before = state(exported)
    write_export(run, exported)
    assert state(exported) == before


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_something_else_is_left_as_it_is(
    run: Run, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(CharlmError, match=rf"{name} already exists and is a different file"):
        write_export(run, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"mine"
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(tmp_path / "nowhere")
    with pytest.raises(CharlmError, match=rf"{name} already exists"):
        write_export(run, tmp_path)
    assert not (tmp_path / "nowhere").exists()


def test_a_run_is_no_place_for_an_export(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.workdir, tmp_path / "run")
    for change in (lambda: None, lambda: shutil.rmtree(tmp_path / "run" / "checkpoints")):
        change()
        before = sorted(path.name for path in (tmp_path / "run").iterdir())
        with pytest.raises(CharlmError, match="is a run: name another folder"):
            write_export(run, tmp_path / "run")
        assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


def test_a_run_stays_one_whatever_is_put_into_it(run: Run, exported: Path, tmp_path: Path) -> None:
    shutil.copytree(run.workdir, tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").write_bytes(b"downloaded")
    assert same_bits(load_run(tmp_path / "run").params, run.params)
    assert run_folders(tmp_path) == [tmp_path / "run"]


@pytest.mark.parametrize("name", FILES)
def test_an_export_that_was_cut_short_is_completed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    replace, folder, outside = os.replace, tmp_path / "out", tmp_path / "outside"
    folder.mkdir()
    outside.write_text("mine")
    left = folder / f"{name}.01234567.partial"
    left.symlink_to(outside)
    os.utime(left, (0, 0), follow_symlinks=False)

    def full(source: Path, target: Path) -> None:
        if target.name == name:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CharlmError, match=r"cannot write to .*out: No space left on device"):
        write_export(run, folder)
    assert not (folder / "model.safetensors").exists()  # which is what makes it an exported model
    monkeypatch.setattr(os, "replace", replace)
    write_export(run, folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert load_run(folder).checkpoint == STEP and outside.read_text() == "mine"


# An exported model is no run.


def test_an_exported_model_is_not_trained_on_in_its_folder(exported: Path) -> None:
    before = state(exported)
    for fresh in (False, True):
        with pytest.raises(CharlmError, match="is an exported model, not a run"):
            train_and_evaluate(make_tiny_config(), exported, fresh=fresh)
    for ask in (verify_run, run_folders):
        with pytest.raises(CharlmError, match="is an exported model, not a run"):
            ask(exported)
    assert list_runs(exported) == []
    assert state(exported) == before


def test_a_run_starts_from_an_exported_model(run: Run, exported: Path) -> None:
    config = make_tiny_config(**{"train.init_from": str(exported)})
    params, facts, _ = load_init_from(build_trainer(config, load_dataset(config)), None)
    assert same_bits(params, run.params)
    assert facts is not None and facts["checkpoint"] == STEP


# What is damaged is never loaded.


@examples(0.6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed(
    exported: Path, tmp_path: Path, name: str, place: float, bit: int
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(exported, folder, dirs_exist_ok=True)
    data = bytearray((folder / name).read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    (folder / name).write_bytes(data)
    with pytest.raises(CharlmError, match=r"json|safetensors"):
        load_run(folder)


@examples(0.3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True))
def test_a_torn_file_is_noticed(exported: Path, tmp_path: Path, name: str, place: float) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(exported, folder, dirs_exist_ok=True)
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(place * len(data))])
    with pytest.raises(CharlmError, match=name):
        load_run(folder)


Header = dict[str, Any]


def _renamed(header: Header) -> None:
    header["layer_0.mixer.other"] = header.pop("layer_0.mixer.input.bias")


def _lacking(header: Header) -> None:
    """The last array goes, and its bytes become one of another name's."""
    gone = header.pop("output.kernel")
    header["output.bias"]["data_offsets"][1] = gone["data_offsets"][1]
    header["output.bias"]["shape"] = [28]


def _float16(header: Header) -> None:
    header["embedding"] |= {"dtype": "F16", "shape": [4, 10]}


def _transposed(header: Header) -> None:
    header["output.kernel"]["shape"] = [4, 6]


def _no_metadata(header: Header) -> None:
    del header["__metadata__"]


def _no_facts(header: Header) -> None:
    header["__metadata__"] = {"format": "np"}


def _no_seal(header: Header) -> None:
    facts = json.loads(header["__metadata__"]["charlm_jax"])
    del facts["sha256"]["weights"]
    header["__metadata__"]["charlm_jax"] = json.dumps(facts)


def _facts(text: str = "", **changes: Any) -> Callable[[Header], None]:
    """Other facts: a text in their place, or some of them changed."""

    def change(header: Header) -> None:
        facts = json.loads(header["__metadata__"]["charlm_jax"]) | changes
        header["__metadata__"]["charlm_jax"] = text or json.dumps(facts)

    return change


# Name -> what is changed in a sound header, and the answer.
OTHER_HEADERS: Mapping[str, tuple[Callable[[Header], None], str]] = {
    "renamed": (_renamed, "layer_0.mixer.input.bias is missing there and float32 of shape (24,)"),
    "lacking": (_lacking, "output.bias is float32 of shape (28,) there and float32 of shape (4,)"),
    "float16": (_float16, "embedding is F16 of shape (4, 10) there and float32 of shape (4, 5)"),
    "transposed": (_transposed, "output.kernel is float32 of shape (4, 6) there and float32 of"),
    "no_metadata": (_no_metadata, "was not written by charlm export"),
    "no_facts": (_no_facts, "was not written by charlm export"),
    "facts_torn": (_facts("{"), "was not written by charlm export"),
    "facts_a_list": (_facts("[1]"), "was not written by charlm export"),
    "facts_nested": (_facts("[" * 100_000), "was not written by charlm export"),
    "of_the_future": (_facts(format=99), "format 99 is newer than charlm_jax 0"),
    "step_a_text": (_facts(checkpoint="7"), "a value in its metadata has the wrong type"),
    "another_step": (_facts(checkpoint=8), "its content is not what was exported"),
    "another_kind": (_facts(weights="average"), "its content is not what was exported"),
    "no_seal": (_no_seal, "its content is not what was exported"),
    "no_hashes": (_facts(sha256={}), "config.json is not the one that model.safetensors was"),
}


@pytest.mark.parametrize("name", OTHER_HEADERS)
def test_a_file_of_something_else_says_what_it_is(
    exported: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(exported, tmp_path / "copy")
    file = tmp_path / "copy" / "model.safetensors"
    header, data = read_file(file)
    write_file(file, header, data)
    load_run(tmp_path / "copy")  # however the header is laid out
    change, message = OTHER_HEADERS[name]
    change(header)
    write_file(file, header, data)
    with pytest.raises(CharlmError) as caught:
        load_run(tmp_path / "copy")
    assert message in str(caught.value) and str(file.parent) in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "vocabulary.json"])
def test_the_files_of_two_exports_are_not_mixed(exported: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(exported, tmp_path / "copy")
    file = tmp_path / "copy" / name
    values = json.loads(file.read_text())
    values |= {"seed": 2} if name == "config.json" else {"symbols": "abce"}
    file.write_text(json.dumps(values, indent=2) + "\n")
    with pytest.raises(CharlmError, match=rf"{name} is not the one that model\.safetensors was"):
        load_run(tmp_path / "copy")


# The example.

NUMPY_ALONE = """
import runpy, sys

class Only:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in sys.stdlib_module_names | {"numpy"}:
            raise ImportError(f"{name} is not NumPy")

sys.meta_path.insert(0, Only())
runpy.run_path(sys.argv.pop(1), run_name="__main__")
assert "jax" not in sys.modules and "safetensors" not in sys.modules
"""


def test_the_example_draws_our_text_with_numpy_alone(
    run: Run, exported: Path, tmp_path: Path
) -> None:
    arguments = [str(EXAMPLE), str(exported), "ab", "200", "inf", "0"]
    result = subprocess.run(
        [sys.executable, "-I", "-c", NUMPY_ALONE, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    text = "ab" + run.generate("ab", characters=200, scale=math.inf)
    assert result.stdout == f"{text}\n" and len(set(text[-50:])) == 3


def example(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> dict[str, Any]:
    """What its names stand for at the end."""
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *map(str, arguments)])
    return runpy.run_path(str(EXAMPLE))


def test_the_logits_of_the_example_are_ours(
    run: Run, exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = example(monkeypatch, exported, "abcd", 60, 1.5, 3)
    text = capsys.readouterr().out.removesuffix("\n")
    assert len(text) == 64 and text.startswith("abcd")
    ids_BT = jnp.asarray(run.vocabulary.encode(text).astype(np.int32))[None]
    logits_BTV, _ = run.model.apply(run.params, ids_BT, run.model.initial_state(1, 0))
    np.testing.assert_allclose(found["logits"], logits_BTV[0, -1], atol=1e-4)


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0])
def test_the_example_draws_from_the_softmax_of_scaled_logits(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    scale: float,
) -> None:
    bias_V = np.array([0.0, 1.0, -1.0, 0.5])
    params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), run.params)
    params["output"]["bias"] = bias_V.astype(np.float32)  # whatever is read, the same follows
    write_export(dataclasses.replace(run, params=params), tmp_path / "out")
    example(monkeypatch, tmp_path / "out", "a", 4000, scale, 1)
    text = capsys.readouterr().out.removesuffix("\n")[1:]
    weights_V = np.exp(scale * bias_V)
    counts_V = [text.count(symbol) for symbol in run.vocabulary.symbols]
    assert chisquare(counts_V, 4000 * weights_V / weights_V.sum()).pvalue > 1e-3


def test_the_example_refuses_what_it_cannot_read(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tied = make_model_config("lstm", embedding_size=6, hidden_size=6, tied_embedding=True)
    for number, model in enumerate([CASES["lstm-pre_norm-bfloat16"], tied]):
        config = dataclasses.replace(make_tiny_config(), model=model)
        out = tmp_path / f"{number}"
        write_export(build_run(tmp_path / f"run_{number}", config), out)
        with pytest.raises(SystemExit, match=f"{number} is not one LSTM with nothing around it"):
            example(monkeypatch, out, "a", 1, 1, 1)
    of_bytes = build_run(tmp_path / "run_bytes", make_tiny_config(**{"data.unit": "bytes"}))
    write_export(of_bytes, tmp_path / "bytes")
    with pytest.raises(SystemExit, match="bytes is a model of bytes"):
        example(monkeypatch, tmp_path / "bytes", "a", 1, 1, 1)
    with pytest.raises(SystemExit, match=r"the model does not know \['é', '漢'\]"):
        example(monkeypatch, exported, "a漢bé", 1, 1, 1)
