"""A notebook is found by what has been imported, and its output is replaced, not repeated."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from charlm_jax.core.notebook import in_notebook, notebook_progress, open_output
from tests.conftest import ROOT, FakeNotebook


def test_a_kernel_is_a_notebook(notebook: FakeNotebook) -> None:
    assert in_notebook()


def test_a_terminal_and_a_plain_interpreter_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not in_notebook()
    package = types.ModuleType("IPython")
    monkeypatch.setitem(sys.modules, "IPython", package)
    for shell in (None, type("TerminalInteractiveShell", (), {})()):
        package.get_ipython = lambda shell=shell: shell  # type: ignore[attr-defined]
        assert not in_notebook()


def test_ipython_is_not_imported_to_look(tmp_path: Path) -> None:
    (tmp_path / "IPython.py").touch()  # where the real one is not installed
    script = "import sys; from charlm_jax.core.notebook import in_notebook as find; "
    script += "print(find(), 'IPython' in sys.modules)"
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "False False\n", done.stderr


def test_one_output_is_updated_at_most_four_times_a_second(
    notebook: FakeNotebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    show = open_output()
    assert notebook.outputs == 0
    for step in range(1000):
        now = step / 1000
        show(f"<b>{step}</b>", str(step))
    assert notebook.outputs == 1 and 3 <= notebook.updates <= 5
    show("<b>last</b>", "last", at_once=True)
    assert notebook.output == {"text/html": "<b>last</b>", "text/plain": "last"}


def test_progress_is_a_bar_that_goes_when_it_ends(
    notebook: FakeNotebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with pytest.raises(KeyboardInterrupt), notebook_progress() as report:
        report("scoring <x>", 0)
        assert "<progress></progress> scoring &lt;x&gt;" in notebook.output["text/html"]
        now = 1.0
        report("scoring <x>", 0.5)
        assert 'value="0.500"' in notebook.output["text/html"]
        assert notebook.output["text/plain"] == "scoring <x>: 50%"
        raise KeyboardInterrupt
    assert notebook.outputs == 1 and set(notebook.output.values()) == {""}
    with notebook_progress():
        pass
    assert notebook.outputs == 1


def test_a_script_has_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with notebook_progress() as report:
        report("scoring", 0.5)
    assert capsys.readouterr() == ("", "")
