"""Memory of a training step by its number of pieces."""

import json

import pytest

from benchmarks.step_memory import main

SMALL = ["--config=quickstart", "--config.model.hidden_size=8", "--config.model.embedding_size=8"]


def test_more_pieces_need_less_memory_for_the_same_weights(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*SMALL, "--microbatches=1,8", "--json"]) == 0
    whole, pieces = json.loads(capsys.readouterr().out)["rows"]
    assert pieces["step"] < 0.5 * whole["step"]
    for name in ("parameters", "state"):
        assert pieces[name] == whole[name] > 0


def test_a_number_that_is_none_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--microbatches=1,x"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "config.train.microbatches='x' is not an integer" in line
