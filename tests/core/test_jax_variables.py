"""A mistake in a variable of JAX is one line that names it, and other errors stay what they are."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.jax_variables import named_variables
from tests.conftest import ROOT

COMMAND = ["-m", "charlm_jax", "summary", "--config=quickstart", "--symbols=9"]
SCRIPT = (
    "import charlm_jax\n"
    "config = charlm_jax.load_config('quickstart', {'data.corpus': 'synthetic'})\n"
    "try:\n    charlm_jax.train(config, 'run', quiet=True)\n"
    "except charlm_jax.CharlmError as error:\n    raise SystemExit(f'python: {error}')"
)


@pytest.mark.parametrize(
    ("variable", "value"), [("JAX_PLATFORMS", "cpuu"), ("JAX_ENABLE_X64", "maybe")]
)
@pytest.mark.parametrize("arguments", [COMMAND, ["-c", SCRIPT]], ids=["command", "python"])
def test_a_mistake_in_a_variable_is_one_line_that_names_it(
    arguments: list[str], variable: str, value: str, tmp_path: Path
) -> None:
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), variable: value},
        capture_output=True,
        text=True,
    )
    (line,) = result.stderr.splitlines()
    assert f": {variable}='{value}' in the environment" in line
    assert result.returncode == (1 if arguments[0] == "-c" else 2) and not result.stdout
    assert not [*tmp_path.iterdir()]


def test_a_device_that_is_not_there_is_named_whatever_jax_raises(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> None:
        raise AssertionError

    monkeypatch.setattr(jax, "devices", fail)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    says = r"JAX_PLATFORMS='cuda' .* no such device here: write"
    with pytest.raises(CharlmError, match=says), named_variables():
        fail()


@pytest.mark.parametrize(
    "error",
    [
        ValueError("ours"),
        AssertionError(),
        RuntimeError("Out of memory allocating 5000000000 bytes."),
        CharlmError("x=0 is not allowed"),
        ValueError("invalid truth value 'q' for environment 'JAX_NOT_SET'"),
    ],
    ids=repr,
)
def test_other_errors_stay_what_they_are(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    with pytest.raises(type(error)) as caught, named_variables():
        raise error
    assert caught.value is error
