"""The example of docs/examples: a bare loop around the model's four functions learns a text."""

import math
import re
import runpy
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

EXAMPLE = ROOT / "docs" / "examples" / "minimal_training.py"
SENTENCE = "the cat sat on the mat. "


def test_a_bare_loop_learns_a_sentence_by_heart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text(SENTENCE * 100)
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(tmp_path / "text.txt"), "100"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    *lines, sampled = capsys.readouterr().out.splitlines()
    losses = [float(loss) for loss in re.findall(r": ([0-9.]+) nats", "\n".join(lines))]
    assert len(losses) == 3 and losses[0] == pytest.approx(math.log(len(set(SENTENCE))), abs=0.1)
    assert max(losses[1:]) < 0.1
    assert len(sampled) == 300 and sampled.count(SENTENCE) >= 8
