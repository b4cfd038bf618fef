"""A finished run, which tests of storage copy before they change it."""

from pathlib import Path

import pytest

from charlm_jax.training.loop import train_and_evaluate
from tests.conftest import make_tiny_config


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs, with checkpoints 19 and 38."""
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    train_and_evaluate(make_tiny_config(), workdir)
    return workdir
