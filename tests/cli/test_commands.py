"""The command as a person meets it: what it prints. `test_errors.py` has every mistake."""

import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import charlm_jax
from charlm_jax.cli import main
from tests.conftest import ROOT, TINY

TRUNCATIONS = ["top_k", "top_p", "min_p"]
BASE = str(ROOT / "configs" / "base.py")
OVERRIDES = [
    f"--config.{field}={','.join(value) if isinstance(value, tuple) else value}"
    for field, value in TINY.items()
]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("cli") / "run")
    assert main(["train", f"--config={BASE}", f"--workdir={path}", *OVERRIDES]) == 0
    return path


def _json_lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.core
def test_train_says_what_it_did_and_then_that_it_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", f"--config={BASE}", f"--workdir={tmp_path / 'run'}", *OVERRIDES]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert "epoch  2" in first and "trained 38 steps" in first and "best held-out loss" in first
    sample, evaluate, report = first.split("Next:\n")[1].splitlines()
    assert main(command) == 0
    second = capsys.readouterr().out
    assert "is done: 38 steps; raise config.train.epochs to train further" in second
    assert second.endswith(first[first.index("Next:") :])
    for line in (sample + " --chars=5", evaluate, report):
        program, *arguments = shlex.split(line)
        assert program == "charlm" and main(arguments) == 0
    capsys.readouterr()
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (facts["config_spec"], facts["point"]) == (str(BASE), None)
    assert [f"--config.{text}" for text in facts["overrides"]] == OVERRIDES
    load = {"spec": str(BASE), "overrides": facts["overrides"]}
    charlm_jax.train(charlm_jax.load_config(**load), tmp_path / "run", quiet=True)
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == facts
    load["overrides"] = [*facts["overrides"], "train.log_every_steps=7"]
    charlm_jax.train(charlm_jax.load_config(**load), tmp_path / "run", quiet=True)
    later = json.loads((tmp_path / "run" / "run.json").read_text())
    changed = {"config_spec": None, "overrides": None}  # they would not give the config
    assert later == facts | changed | {"sha256": later["sha256"]}


def test_train_starts_from_another_run(workdir: str, tmp_path: Path) -> None:
    command = ["train", f"--config={BASE}", *OVERRIDES]
    for flag, steps in {"init_from": 1, "branch_from": 30}.items():
        options = [f"--workdir={tmp_path / flag}", f"--config.train.max_steps={steps}"]
        assert main([*command, *options, f"--{flag}={workdir}"]) == 0
    facts = [json.loads((tmp_path / x / "run.json").read_text()) for x in os.listdir(tmp_path)]
    started = {fact["total_steps"]: fact["started_from"] for fact in facts}
    assert started[30] is None and started[1]["checkpoint"] == 38
    branched = {fact["total_steps"]: fact.get("branched_from") for fact in facts}
    assert branched == {1: None, 30: {"run": workdir, "checkpoint": 19}}


def test_sample_as_json(workdir: str, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = "ab"
    command = ["sample", f"--workdir={workdir}", f"--prompt={prompt}", "--chars=20", "--json"]
    assert main([*command, "--scale=0.5,1,inf", "--num=2", "--seed=1"]) == 0
    rows = _json_lines(capsys.readouterr().out)
    assert [list(row) for row in rows] == [
        ["scale", "temperature", *TRUNCATIONS, "seed", "index", "prompt", "text", "stopped_by"]
    ] * 6
    assert all(row["stopped_by"] is None for row in rows)
    assert all([row[name] for name in TRUNCATIONS] == [0, 1.0, 0.0] for row in rows)
    assert [(row["scale"], row["temperature"]) for row in rows[::2]] == [
        (0.5, 2.0),
        (1.0, 1.0),
        ("inf", 0.0),
    ]
    assert [row["index"] for row in rows] == [0, 1] * 3
    assert all(len(row["text"]) == 20 for row in rows)
    assert rows[4]["text"] == rows[5]["text"]  # greedy
    assert main([*command, "--scale=1", "--seed=1", "--mode=window"]) == 0
    (window,) = _json_lines(capsys.readouterr().out)
    assert window["text"][:5] == rows[2]["text"][:5]  # the window of 8 is not full before


def test_sample_as_text(workdir: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", f"--workdir={workdir}", "--prompt=a", "--chars=30", "--scale=2"]) == 0
    alone, said = capsys.readouterr()
    assert alone[0] == "a" and len(alone) == 1 + 30 + 1  # the text, and the end of its line
    heading = "--- scale 2 (temperature 0.5), seed 0, sample 0\n"
    assert said == f"{workdir}, checkpoint 38, carried\n{heading}"
    command = ["sample", f"--workdir={workdir}", "--prompt=a", "--chars=30", "--scale=2,0"]
    assert main(command) == 0
    both = capsys.readouterr().out
    assert both.startswith(f"{heading}{alone}\n--- scale 0 (temperature inf), seed 0, sample 0\na")
    assert both.endswith("\n\n")


def test_sample_in_columns(
    workdir: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    command = ["sample", f"--workdir={workdir}", "--prompt=ab", "--chars=40", "--top_k=3"]
    command += ["--scale=0.5,1,2", "--num=2"]
    assert main([*command, "--json"]) == 0
    texts = [row["prompt"] + row["text"] for row in _json_lines(capsys.readouterr().out)]
    assert main([*command, "--layout=columns"]) == 0
    columns = capsys.readouterr().out
    sheets = columns.removesuffix("\n\n").split("\n\n")
    for sample, sheet in enumerate(sheets):
        title, scales, temperatures, rule, *lines = sheet.split("\n")
        assert title == f"--- top_k 3, seed 0, sample {sample}"
        assert [cell.strip() for cell in scales.split("|")] == ["scale 0.5", "scale 1", "scale 2"]
        assert "(temperature 0.5)" in temperatures and set(rule) == set("-| ")
        cells = zip(*[line.split(" | ") for line in lines], strict=True)
        assert ["".join(map(str.strip, column)) for column in cells] == texts[sample::2]
    assert len(sheets) == 2
    assert main(command) == 0
    rows = capsys.readouterr().out
    assert rows.startswith("--- scale 0.5 (temperature 2), top_k 3, seed 0, sample 0\nab")
    for terminal, layout, expected in [
        ("80", "auto", columns),
        ("77", "auto", rows),
        ("80", "rows", rows),
    ]:
        monkeypatch.setenv("COLUMNS", terminal)
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        assert main([*command, f"--layout={layout}"]) == 0
        assert capsys.readouterr().out == expected


def test_sample_stops(workdir: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sample", f"--workdir={workdir}", "--prompt=ab", "--chars=250", "--num=3"]
    assert main([*command, "--json"]) == 0
    plain = [row["text"] for row in _json_lines(capsys.readouterr().out)]
    stops = [plain[0][98:103], "d" * 251, plain[1][40:46]]  # the first lies across two pieces
    assert main([*command, "--json", *[f"--stop={stop}" for stop in stops]]) == 0
    for row, text in zip(_json_lines(capsys.readouterr().out), plain, strict=True):
        ends = {stop: text.index(stop) for stop in stops if stop in text}
        assert row["text"] == text[: min(ends.values(), default=250)]
        assert row["stopped_by"] == min(ends, key=lambda stop: ends[stop] + len(stop), default=None)
    assert main([*command, "--num=1", f"--stop={stops[0]}"]) == 0
    assert capsys.readouterr().out == f"ab{plain[0][: plain[0].index(stops[0])]}\n"


def _type(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """Have standard input hold these bytes."""
    keys = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", newline="\n")  # as Unix has it
    monkeypatch.setattr(sys, "stdin", keys)


@pytest.mark.parametrize(("unknown", "said"), [("drop", "left out"), ("replace", "replaced")])
def test_a_prompt_that_was_not_read_as_it_stands_is_told(
    unknown: str, said: str, workdir: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sample", f"--workdir={workdir}", "--chars=5", f"--unknown={unknown}"]
    command += ["--replacement=c"] * (unknown == "replace")
    mark = "c" if unknown == "replace" else ""
    for prompt, line in [
        ("a漢b!", [f"2 unknown characters of the prompt were {said}"]),
        ("漢ab", [f"1 unknown character of the prompt was {said}"]),
        ("ab", []),
    ]:
        assert main([*command, f"--prompt={prompt}"]) == 0
        out, err = capsys.readouterr()
        assert err.splitlines()[1:-1] == line
        assert prompt.replace("漢", mark).replace("!", mark) in out


def test_a_prompt_from_a_file_is_the_one_in_it(
    workdir: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = ["sample", f"--workdir={workdir}", "--chars=30"]
    assert main([*command, "--prompt=abba"]) == 0
    text = capsys.readouterr().out
    file = tmp_path / "prompt.txt"
    for data in (b"abba", b"\xef\xbb\xbfabba"):
        file.write_bytes(data)
        assert main([*command, f"--prompt_file={file}"]) == 0
        assert capsys.readouterr().out == text
    _type(monkeypatch, b"abba")
    assert main([*command, "--prompt_file=-"]) == 0
    assert capsys.readouterr().out == text
    file.write_bytes(b"abba\r\n")  # its newline is part of it, as in a text to train on
    assert main([*command, f"--prompt_file={file}", "--unknown=replace", "--replacement=c"]) == 0
    assert main([*command, "--prompt=abbac"]) == 0
    found, expected = (part[5:] for part in capsys.readouterr().out.split("abba")[1:])
    assert found.strip() == expected.strip()


@pytest.mark.core
def test_a_session_prints_what_the_commands_print(
    workdir: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["sample", f"--workdir={workdir}", "--chars=30"]
    expected = []
    for told in (["--prompt=ab"], ["--prompt=cc", "--scale=2"], ["--prompt=cc", "--seed=4"]):
        assert main([*command, *told, "--top_k=3"]) == 0
        expected.append(capsys.readouterr().out)
    _type(
        monkeypatch,
        "/scale 2\ncc\n/sede 4\na\udcff\n/scale 1\n/seed 4\ncc".encode("utf-8", "surrogateescape"),
    )
    assert main([*command, "--prompt=ab", "--interactive", "--top_k=3"]) == 0
    out, err = capsys.readouterr()
    assert out == "".join(expected)
    first, *notes = err.splitlines()
    assert first == f"{workdir}, checkpoint 38, carried; /help lists the commands"
    assert notes[1] == "unknown command /sede, did you mean /seed?" and "U+DCFF" in notes[2]
    assert [notes[0], *notes[3:]] == [
        "scale 2 (temperature 0.5)",
        "scale 1 (temperature 1)",
        "seed 4",
    ]
    for data in (b"", b"/quit\nab\n", b"\n"):
        _type(monkeypatch, data)
        assert main([*command, "--interactive"]) == 0
        assert capsys.readouterr().out == ""
    _type(monkeypatch, b"\xef\xbb\xbf/scale 2\r\ncc\r\n")  # a file of Windows
    assert main([*command, "--interactive", "--top_k=3"]) == 0
    out, err = capsys.readouterr()
    assert out == expected[1] and err.splitlines()[1:] == ["scale 2 (temperature 0.5)"]
    monkeypatch.setattr(sys, "stdin", None)  # it was closed
    assert main([*command, "--interactive"]) == 0


def test_ctrl_c_where_a_line_is_awaited_ends_a_session(
    workdir: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = iter(["ab\n"])

    class Keyboard(io.StringIO):
        def readline(self, *_: object) -> str:
            for line in lines:
                return line
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", Keyboard())
    assert main(["sample", f"--workdir={workdir}", "--chars=30", "--interactive"]) == 0
    assert len(capsys.readouterr().out) == 2 + 30 + 1


def test_sample_truncated(workdir: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sample", f"--workdir={workdir}", "--prompt=a", "--chars=30", "--seed=1"]
    assert main([*command, "--json", "--scale=0,1,inf", "--top_k=1", "--min_p=0.1"]) == 0
    rows = _json_lines(capsys.readouterr().out)
    assert all([row[name] for name in TRUNCATIONS] == [1, 1.0, 0.1] for row in rows)
    assert len({row["text"] for row in rows}) == 1  # the best symbol, whatever the scale
    assert main([*command, "--top_p=0"]) == 0
    printed, said = capsys.readouterr()
    assert said.endswith("\n--- scale 1 (temperature 1), top_p 0.0, seed 1, sample 0\n")
    assert printed == f"a{rows[0]['text']}\n"


@pytest.mark.parametrize("mode", ["window", "sliding", "stream"])
def test_evaluate_as_json(workdir: str, mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", f"--workdir={workdir}", f"--mode={mode}", "--json"]) == 0
    (row,) = _json_lines(capsys.readouterr().out)
    names = "loss_nats bits_per_char bits_per_byte characters mode context split fingerprint "
    names += "checkpoint weights weights_hash targets split_characters unit"
    assert list(row) == names.split()
    assert row["unit"] == "characters" and row["bits_per_byte"] == row["bits_per_char"]  # ASCII
    assert row["characters"] == 300 and row["context"] == (None if mode == "stream" else 8)
    (file,) = Path(workdir, "evaluation").glob(f"valid_{mode}*.npy")
    assert np.load(file).mean() == pytest.approx(row["loss_nats"], rel=1e-5)


def test_summary_counts_the_textbooks_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "--config=tutorial", "--symbols=80", "--json"]) == 0
    (row,) = _json_lines(capsys.readouterr().out)
    assert row["parameters"] == 1_636_432
    assert [module["parameters"] for module in row["modules"]] == [20_480, 1_574_912, 41_040]
    assert [module["output_shape"][2] for module in row["modules"]] == [256, 512, 80]
    assert row["length_schedule"] == ""
    assert main(["summary", "--config=tutorial", "--symbols=80"]) == 0
    out = capsys.readouterr().out
    assert "1,636,432" in out and "in training" not in out


def test_summary_says_the_schedule_of_lengths(capsys: pytest.CaptureFixture[str]) -> None:
    scheduled = "--config.data.length_schedule=10:300,10:200,80:50"
    assert main(["summary", "--config=tutorial", "--symbols=80", scheduled]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == ("sequence lengths in training: 10 for 500 steps, then 80 for 50 steps, then 40")
    assert main(["summary", "--config=tutorial", "--symbols=80", scheduled, "--json"]) == 0
    (row,) = _json_lines(capsys.readouterr().out)
    assert row["length_schedule"] == "10:300,10:200,80:50" and row["sequence_length"] == 40


def test_corpora_lists_and_describes(text_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["corpora"]) == 0
    listed = capsys.readouterr().out
    for name in ("mysterious-island", "tiny-shakespeare", "shakespeare", "synthetic"):
        assert name in listed
    assert main(["corpora", str(text_file), "--json"]) == 0
    (row,) = _json_lines(capsys.readouterr().out)
    assert list(row)[:5] == ["name", "characters", "symbols", "sha256", "source"]
    assert row["characters"] == 45 * 60 and row["source"] == str(text_file)


@pytest.mark.core
def test_the_real_command_exits_as_it_should(tmp_path: Path) -> None:
    def charlm(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "charlm_jax", *arguments]
        here = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=here)

    version = charlm("--version")
    assert version.returncode == 0 and version.stdout.startswith("charlm_jax ")
    wrong = charlm("sample", "--workdir=nowhere", "--prompt=a")
    assert wrong.returncode == 2
    assert wrong.stderr == "charlm sample: no run at nowhere: there is no such folder\n"


def test_a_closed_stream_is_read_by_nobody(tmp_path: Path) -> None:
    def charlm(closed: str, *arguments: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "charlm_jax", *arguments]
        line = ["sh", "-c", f'exec "$0" "$@" {closed}', *command]
        here = {**os.environ, "PYTHONPATH": str(ROOT)}
        result = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, env=here)
        return result.returncode, result.stdout, result.stderr

    assert charlm(">&-", "runs", ".") == (0, "", "")
    status, _, said = charlm(">&-", "runs", "nowhere")
    assert status == 2 and said.startswith("charlm runs: no folder nowhere")
    assert charlm("2>&-", "runs", ".") == (0, "no run in .\n", "")
    assert charlm("2>&-", "runs", "nowhere") == (2, "", "")
    assert charlm("2>&-", "nonsense") == (2, "", "")
