"""Runs that hold text out in every way: trained, evaluated, compared, sampled and reported."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from charlm_jax.cli import main
from charlm_jax.data.splits import target_positions
from charlm_jax.evaluation import Stream
from charlm_jax.inference.run import load_run
from tests.cli.test_commands import BASE
from tests.conftest import TINY

TEXT = "the quick brown fox jumps over the lazy dog, and naps. "
SPLITS: Mapping[str, Mapping[str, object]] = {
    "tail": {"test_fraction": 0.1},
    "interleaved": {"test_fraction": 0.05, "blocks": 3, "guard": 9},
    "files": {},
}


@pytest.mark.parametrize("kind", SPLITS)
def test_a_run_is_used_under_every_split(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").mkdir()
    for name, times in {"train": 40, "valid": 5, "test": 3}.items():
        (tmp_path / "text" / f"{name}.txt").write_text(TEXT * times + name)
    split = {f"split.{name}": value for name, value in {"kind": kind, **SPLITS[kind]}.items()}
    corpus = tmp_path / "text" if kind == "files" else tmp_path / "text" / "train.txt"
    fields = {**TINY, **split, "data.corpus": corpus}
    workdir = f"--workdir={tmp_path / 'run'}"
    flags = [f"--config.{field}={value}" for field, value in fields.items()]
    assert main(["train", f"--config={BASE}", workdir, *flags]) == 0
    run = load_run(tmp_path / "run")
    dataset, found = run.dataset(), {}
    for part in ("valid", "test"):
        capsys.readouterr()
        assert main(["evaluate", workdir, f"--split={part}", "--json"]) == 0
        found[part] = json.loads(capsys.readouterr().out)
        stretches = [*map(target_positions, dataset.part(part))]
        assert len(stretches) == (3 if kind == "interleaved" else 1)
        assert found[part]["split"] == part
        assert found[part]["characters"] == sum(map(len, stretches))
        # Each stretch is scored as a text of its own, after the character before it.
        texts = [dataset.corpus.text[x.start - 1 : x.stop] for x in stretches]
        expected = np.concatenate([run.score(text).nll_N for text in texts])
        evaluation, nll_N = run.evaluate(Stream(), split=part)
        np.testing.assert_allclose(nll_N, expected, rtol=1e-4, atol=1e-5)
        assert evaluation.key.split == part
    assert found["valid"]["loss_nats"] == pytest.approx(run.recorded_loss, rel=1e-5)
    assert found["valid"]["loss_nats"] != found["test"]["loss_nats"]
    page = tmp_path / "page.html"
    for command in (
        ["compare", str(tmp_path / "run"), "--split=test"],
        ["report", str(tmp_path / "run"), "--split=test", f"--out={page}"],
    ):
        assert main(command) == 0
    shown = capsys.readouterr().out
    assert f"{found['test']['loss_nats']:.4f}" in shown
    assert f"{found['test']['loss_nats']:.4f}" in page.read_text(encoding="utf-8")
    assert main(["sample", workdir, "--prompt=the ", "--chars=20"]) == 0
    assert len(capsys.readouterr().out) == 4 + 20 + 1
