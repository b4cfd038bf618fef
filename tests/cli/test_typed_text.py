"""Text arguments are read by one rule, and a text is shown as it was read."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm_jax.cli import main
from charlm_jax.cli.typed_text import needs_escapes, typed_text, unescape
from charlm_jax.core.errors import CharlmError
from tests.conftest import examples
from tests.evaluation.test_text_score import random_run


def _typed(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace("\t", r"\t")


@given(st.text("abn\"'\n\t\\", max_size=8))
@examples(3)
def test_any_text_can_be_typed(text: str) -> None:
    assert unescape(_typed(text)) == typed_text(_typed(text)) == text
    assert needs_escapes(text) == any(symbol in text for symbol in "\n\t\\")


@given(st.text(st.characters(exclude_characters="\\"), max_size=8))
@examples(3)
def test_a_text_without_a_backslash_is_read_as_it_is(text: str) -> None:
    assert unescape(text) == text


@pytest.mark.parametrize("typed", ["a\\", "\\x", "\\\n", "\\\\\\"])
def test_another_backslash_is_refused(typed: str) -> None:
    with pytest.raises(CharlmError, match="a backslash must be followed by"):
        unescape(typed)
    with pytest.raises(argparse.ArgumentTypeError, match="a backslash must be followed by"):
        typed_text(typed)


@pytest.fixture(autouse=True)
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    run = random_run("run", "\n\t abcnt\\", 0)
    monkeypatch.setattr("charlm_jax.inference.run.load_run", lambda name, **_: run)
    yield


TEXT = "a\n\tb\\n"


def _read(arguments: list[str], field: str, capsys: pytest.CaptureFixture[str]) -> object:
    assert main([*arguments, "--workdir=run", "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[0])[field]


@pytest.mark.core
def test_every_text_argument_is_read_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prompt.txt"
    file.write_bytes(_typed(TEXT).encode())
    sample = ["sample", "--chars=5"]
    assert _read([*sample, f"--prompt={_typed(TEXT)}"], "prompt", capsys) == TEXT
    assert _read([*sample, f"--prompt_file={file}"], "prompt", capsys) == _typed(TEXT)
    stops = [*sample, "--prompt=a", "--chars=99", r"--stop=\n", r"--stop=\t", r"--stop=\\"]
    assert _read(stops, "stopped_by", capsys) in ("\n", "\t", "\\")
    inspect = ["inspect", f"--text={_typed(TEXT)}@", "--unknown=replace", r"--replacement=\t"]
    assert _read([*inspect, f"--out={tmp_path}"], "symbols", capsys) == [*TEXT, "\t"]
    for flag in ("--prompt", "--stop", "--replacement"):
        with pytest.raises(SystemExit):
            main(["sample", "--workdir=run", "--prompt=a", rf"{flag}=a\d"])
        assert f"argument {flag}: \\d is not an escape" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["sample", "--prompt"], ["inspect", "--text"]])
def test_a_text_with_escapes_is_shown_as_it_was_read(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, flag = arguments
    more = [f"--out={tmp_path}"] if command == "inspect" else ["--chars=3"]
    for text in (TEXT, "ab"):
        assert main([command, "--workdir=run", f"{flag}={_typed(text)}", *more]) == 0
        assert (f"{flag[2:]} {text!r}\n" in capsys.readouterr().err) == (text == TEXT)
