"""Training on two virtual devices, in a process that has them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, UNOPTIMISED

TESTS = Path(__file__).parent / "two_devices.py"


@pytest.mark.usefixtures("child_environment")
def test_two_devices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    given, two = os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=2"
    monkeypatch.setenv("XLA_FLAGS", " ".join([given, *UNOPTIMISED, two]))
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
    ]
    if request.config.getoption("exhaustive"):
        command.append("--exhaustive")
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
