"""Training on two virtual devices, in a process that has them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

TESTS = Path(__file__).parent / "two_devices.py"
RULES = "update_rule or resumes"


@pytest.mark.usefixtures("child_environment")
@pytest.mark.parametrize(
    "options",
    [
        [],
        pytest.param(["--exhaustive", "-k", RULES], marks=pytest.mark.exhaustive),
        pytest.param(["--exhaustive", "-k", f"not ({RULES})"], marks=pytest.mark.exhaustive),
    ],
    ids=["", "rules", "others"],
)
def test_two_devices(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    given, two = os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=2"
    monkeypatch.setenv("XLA_FLAGS", f"{given} {two}")
    command = [
        sys.executable,
        "-m",
        "pytest",
        str(TESTS),
        "-n",
        "0",
        "-q",
        "-p",
        "no:cacheprovider",
        *options,
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"\b[1-9]\d* passed", result.stdout), result.stdout
