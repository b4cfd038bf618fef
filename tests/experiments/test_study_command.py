"""Flags that all studies share."""

import os
from pathlib import Path

import jax
import pytest

from charlm_jax.core.errors import CharlmError
from experiments.study_command import (
    StudyFiles,
    add_only,
    check_only,
    keep_programs,
    open_study,
    study_parser,
)

STUDY = StudyFiles("lengths", "# Lengths", ("lengths.png",))


def test_a_study_has_its_folders_and_the_command_that_makes_it_again(tmp_path: Path) -> None:
    parser = study_parser(STUDY, "Measure lengths.", {"minutes": 1, "long": 2})
    add_only(parser)
    typed = [f"--workdir={tmp_path / 'a'}", "--jobs=3", "--only=one", "--only=two"]
    options = parser.parse_args(typed)
    assert options.only == ["one", "two"]
    found = open_study(STUDY, options, "--corpus=text")
    assert found.folder == tmp_path / "a" and found.train
    assert found.command == "python -m experiments.lengths --preset=minutes --corpus=text"
    assert found.training.records.folder == tmp_path / "a" / "records"
    assert found.training.folder == tmp_path / "a" / "runs"
    assert found.training.jobs == 3 and not found.training.keep

    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "lengths.png").write_text("mine")
    with pytest.raises(CharlmError, match=r"lengths\.png is not from this study"):
        open_study(STUDY, options)

    with pytest.raises(CharlmError, match="jobs=0 is not allowed: it must be at least 1"):
        open_study(STUDY, parser.parse_args([f"--workdir={tmp_path / 'b'}", "--jobs=0"]))
    typed = [f"--workdir={tmp_path / 'b'}", f"--records={tmp_path / 'c'}", "--from_records"]
    found = open_study(STUDY, parser.parse_args([*typed, "--preset=long", "--keep_runs"]))
    assert found.command == "python -m experiments.lengths --preset=long"
    assert found.training.records.folder == tmp_path / "c"
    assert found.training.keep and not found.train


def test_a_model_that_is_not_there_is_refused() -> None:
    check_only([], ["a"])
    check_only(["a"], ["a, b", "a"])
    with pytest.raises(CharlmError, match=r"--only=c is not one of 'a, b', 'a'"):
        check_only(["a", "c"], ["a, b", "a"])


def test_programs_are_kept_where_nobody_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    keep_programs(tmp_path)
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "elsewhere"
    assert jax.config.jax_compilation_cache_dir == before
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    try:
        keep_programs(tmp_path)
        assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path)
        assert jax.config.jax_compilation_cache_dir == str(tmp_path)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
