"""Compiled programs of the studies stay where those of the tests are."""

import jax
import pytest


@pytest.fixture(autouse=True)
def programs_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(jax.config.jax_compilation_cache_dir)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", folder)
