"""Nothing that a stranger named or a model drew acts upon a terminal; pipes get it exactly."""

import ast
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.cells import cell_len

from charlm_jax.cli import main
from charlm_jax.cli.output import note, show, shown_progress
from charlm_jax.core.visible_text import visible_text
from charlm_jax.data.vocabulary import Vocabulary
from charlm_jax.sweeps.progress_bars import Bars, PointRow
from charlm_jax.training.nan_replay import ArrayStats, Replay
from charlm_jax.training.progress_bar import Bar, displayed
from tests.conftest import ROOT, TINY

HOSTILE = "\x1b]0;x\x07\u202e"
SCRIPTS = "می\u200cخ\xa0一\u3000e\u0301"

# The only functions of `charlm_jax.cli` that print, and what they print with.
PRINTERS = {"output.py", "parser.py", "commands/interactive.py"}


class Terminal(io.StringIO):
    """Standard output or error of a terminal."""

    def isatty(self) -> bool:
        return True


def _terminal(monkeypatch: pytest.MonkeyPatch) -> tuple[Terminal, Terminal]:
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    return out, err


@pytest.mark.core
def test_a_terminal_gets_what_can_be_seen_and_a_pipe_the_exact_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"a\tb\n{HOSTILE}{SCRIPTS}\r"
    show(text)
    note(text)
    assert capsys.readouterr() == (f"{text}\n", f"a\\tb\\n\\x1b]0;x\\x07\\u202e{SCRIPTS}\\r\n")
    out, _ = _terminal(monkeypatch)
    show(text)
    assert out.getvalue() == f"a\tb\n\\x1b]0;x\\x07\\u202e{SCRIPTS}\\r\n"


def test_commands_print_by_one_function() -> None:
    folder = ROOT / "charlm_jax" / "cli"
    printing = {
        str(path.relative_to(folder))
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name) and node.id == "print"
    }
    assert printing == PRINTERS


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run in a folder with a hostile name, of a text with such characters."""
    folder = tmp_path_factory.mktemp("world") / f"{HOSTILE}{SCRIPTS}"
    folder.mkdir()
    (folder / f"{HOSTILE}text.txt").write_text(f"{HOSTILE}{SCRIPTS} a\n" * 300, encoding="utf-8")
    file = folder / "tiny.py"
    file.write_text(
        "from configs import base\n\n\ndef get_config():\n    config = base.get_config()\n"
        + "".join(f"    config.{field} = {value!r}\n" for field, value in TINY.items())
        + "    return config\n\n\ndef sweep():\n    return [{'seed': seed} for seed in (1, 2)]\n",
        encoding="utf-8",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TERM", "dumb")
        out, err = _terminal(patch)
        text = f"--config.data.corpus={HOSTILE}text.txt"
        name = f"--workdir={HOSTILE}run"
        samples = "--config.train.sample_every_steps=10"
        assert main(["train", f"--config={file}", name, text, samples]) == 0
        _assert_harmless(out, err)
        assert "step 10, scale 1.5:" in out.getvalue() and "\\x1b]0;x\\x07" in out.getvalue()
        yield folder / f"{HOSTILE}run"


def _assert_harmless(*streams: Terminal) -> None:
    for stream in streams:
        shown = stream.getvalue().replace("\r\x1b[K", "")  # a slow machine's lines of progress
        assert shown == visible_text(shown)


COMMANDS = {
    "runs": ["runs", "."],
    "sample": ["sample", "--workdir=RUN", "--prompt=a", "--chars=200", "--scale=0.3"],
    "sample two": ["sample", "--workdir=RUN", "--prompt=\x1b", "--num=2", "--chars=50"],
    "columns": ["sample", "--workdir=RUN", "--prompt=a", "--scale=0.2,1", "--chars=99"],
    "score": ["score", "--workdir=RUN", "TEXT", "--html=\x1bx.html"],
    "evaluate": ["evaluate", "--workdir=RUN"],
    "compare": ["compare", "."],
    "report": ["report", "RUN", "--out=\x1bx.html"],
    "inspect": ["inspect", "--workdir=RUN", "--text=a\x1b"],
    "export": ["export", "--workdir=RUN"],
    "verify": ["verify", "--workdir=RUN", "--steps=3"],
    "summary": ["summary", "--config=tiny.py", "--config.data.corpus=TEXT"],
    "corpora": ["corpora", "TEXT"],
    "sweep": ["sweep", "--config=tiny.py", "--workdir=RUN", "--dry_run"],
    "no run": ["sample", "--workdir=\x1b", "--prompt=a"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_prints_what_can_be_seen(
    name: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    facts.pop("sha256", None)
    (run / "run.json").write_text(json.dumps({**facts, "finished": f"done{HOSTILE}\n"}))
    names = {"RUN": run.name, "TEXT": f"{HOSTILE}text.txt"}
    arguments = COMMANDS[name]
    for word, value in names.items():
        arguments = [argument.replace(word, value) for argument in arguments]
    out, err = _terminal(monkeypatch)
    status = main(arguments)
    _assert_harmless(out, err)
    assert status == (2 if name == "no run" else 0), err.getvalue()
    shown = out.getvalue() + err.getvalue()
    assert name == "summary" or "\\x1b" in shown
    if name == "runs":
        assert "done\\x1b]0;x\\x07\\u202e\\n" in shown and SCRIPTS in shown
    if name == "score":
        assert SCRIPTS in shown


def test_a_replay_prints_what_can_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = Vocabulary.from_text(HOSTILE)
    ids_BT = vocabulary.encode(HOSTILE)[None]
    first = ArrayStats(f"forward {HOSTILE}", 1.0, 2, 9, (0, len(HOSTILE) - 1))
    replay = Replay(3, float("nan"), 1.0, [first], ids_BT, vocabulary)
    monkeypatch.setattr("charlm_jax.training.nan_replay.replay_fault", lambda _: replay)
    out, err = _terminal(monkeypatch)
    assert main(["replay", "--workdir=run"]) == 0
    _assert_harmless(out, err)
    assert "text read by that row: '\\x1b]0;x" in out.getvalue() and err.getvalue() == ""


def test_a_redirected_sample_is_exact(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.parent)
    arguments = ["sample", f"--workdir={run.name}", "--prompt=\x1b\u202e", "--chars=60"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert text == f"{row['prompt']}{row['text']}\n" and text.startswith("\x1b\u202e")


def test_bars_escape_names_notes_and_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")  # without the commands of the bars themselves
    out, _ = _terminal(monkeypatch)
    with displayed(Bar()) as bar:
        bar.note(f"{HOSTILE} :key: [b]")
        bar.sample(3, 1.0, f"{HOSTILE}\n{SCRIPTS} :key:")
    with displayed(Bars()) as bars:
        bars.start(f"{HOSTILE}point")
        bars.show([PointRow(f"{HOSTILE}point", "running", 1, 2, 3.0)])
        bars.note(f"{HOSTILE}point: done :key:")
    _assert_harmless(out)
    shown = out.getvalue()
    assert shown.count(":key:") == 3 and "[b]" in shown and SCRIPTS in shown


@pytest.mark.parametrize(
    ("is_terminal", "shown"),
    [
        (True, "\r\x1b[Kscoring a: 20%\r\x1b[Kscoring a: 90%\r\x1b[K"),
        (False, "scoring a: 90%\n"),
    ],
)
def test_progress_is_one_line_of_a_terminal_or_a_line_now_and_then(
    is_terminal: bool, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setenv("COLUMNS", "80")
    with shown_progress() as report:
        for now, share in ((0.5, 0.1), (2.0, 0.2), (2.1, 0.3), (15.0, 0.9)):  # noqa: B007
            report("scoring a", share)
    assert stream.getvalue() == shown


def test_a_line_of_progress_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "24")
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with shown_progress() as report:
        now = 2.0
        report("scoring runs/島島島島島島島島島", 0.25)
    line = stream.getvalue().split("\x1b[K")[1].rstrip("\r")
    assert line.endswith(": 25%") and 20 < cell_len(line) < 24
