"""A run is resumed by the config that began it, in whichever version that was."""

import json
from pathlib import Path
from typing import Any

import pytest

from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
from charlm_jax.data.dataset import load_dataset
from charlm_jax.storage.compatibility import (
    changes_of_model,
    check_same_run,
    config_changes,
    division,
)
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.environment import differences
from tests.conftest import make_tiny_config

FIVES = {"split.valid_fraction": 0.05, "split.test_fraction": 0.05}


def _config(characters: int, **changes: Any) -> Config:
    spec = f"synthetic:reach=2,symbols=4,characters={characters},seed=1"
    return make_tiny_config(**{"data.corpus": spec, **FIVES, **changes})


def _old_run(folder: Path, characters: int) -> Workdir:
    """A run of format 3, which knew one rounding and had no name for it."""
    workdir, config = Workdir(folder), _config(characters, **{"split.rounding": "float"})
    folder.mkdir()
    workdir.claim(config, load_dataset(config))
    values = json.loads(workdir.config_file.read_text()) | {"format": 3}
    del values["split"]["rounding"]
    workdir.config_file.write_text(json.dumps(values))
    workdir.metrics_file.write_text("{}\n")
    return workdir


def test_an_old_run_whose_parts_are_the_same_is_resumed_without_a_word(tmp_path: Path) -> None:
    workdir, config = _old_run(tmp_path / "run", 3001), _config(3001)
    assert config.split.rounding == "exact"
    recorded = check_same_run(workdir, config, load_dataset(config))
    assert recorded is not None and recorded.split.rounding == "float"


def test_an_old_run_whose_parts_differ_by_rounding_names_the_field(tmp_path: Path) -> None:
    workdir, config = _old_run(tmp_path / "run", 3000), _config(3000)
    with pytest.raises(CharlmError, match=r"add --config\.split\.rounding=float$"):
        check_same_run(workdir, config, load_dataset(config))
    as_then = _config(3000, **{"split.rounding": "float"})
    assert check_same_run(workdir, as_then, load_dataset(as_then)) == as_then


def test_another_text_is_no_matter_of_rounding(tmp_path: Path) -> None:
    workdir, config = _old_run(tmp_path / "run", 3000), _config(3000)
    other = load_dataset(_config(3020))
    with pytest.raises(CharlmError, match=r"is not the one that .* was started on"):
        check_same_run(workdir, config, other)


def test_work_may_be_divided_otherwise_when_a_run_is_resumed() -> None:
    fields = {"train.devices": 2, "train.shard_params": True, "train.microbatches": 4}
    before, now = _config(3000), _config(3000, **fields)
    assert not config_changes(before, now, same_text=True, held_out=300)
    assert not changes_of_model(before, now, step=1)
    assert differences(division(before), division(now)) == [
        "config.train.devices was 1 and is 2",
        "config.train.shard_params was False and is True",
        "config.train.microbatches was 1 and is 4",
    ]
    assert not differences(division(now), division(now))


def test_a_run_whose_series_must_change_is_branched_off() -> None:
    before, now = (_config(3000, **{"train.keep": keep}) for keep in ("40", "79"))
    (change,) = config_changes(before, now, same_text=True, held_out=300)
    assert "train.keep is '40' there and '79' here (--branch_from=RUN starts" in change
    assert not config_changes(before, now, same_text=True, held_out=300, steps_agree=True)
