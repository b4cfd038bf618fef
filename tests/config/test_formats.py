"""Old files are read as the newest format has them, and newer ones are refused."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from charlm_jax.config import formats, schema
from charlm_jax.config.formats import Change, NewerFormat, newest_format, upgrade, with_format
from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
from tests.conftest import make_tiny_config

FAKE = {
    2: {"run": Change(renamed={"steps": "count"})},
    3: {
        "config": Change(added={"model.gate_bias": 1.0}, renamed={"seed": "train.seed"}),
        "run": Change(added={"tags": []}, renamed={"count": "progress.step"}),
    },
    4: {"config": Change(renamed={"train.seed": "train.root_seed", "old": "new"})},
}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "CHANGES", FAKE)


@pytest.mark.core
@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("run", {"steps": 3}, {"progress": {"step": 3}, "tags": []}),
        ("run", {"steps": 3, "format": 1}, {"progress": {"step": 3}, "tags": []}),
        ("run", {"count": 3, "format": 2}, {"progress": {"step": 3}, "tags": []}),
        ("run", {"steps": 3, "format": 2}, {"steps": 3, "tags": []}),  # of a format without it
        ("run", {"steps": 3, "format": 4}, {"steps": 3}),
        ("run", {"tags": ["a"]}, {"tags": ["a"]}),
        ("config", {"seed": 5}, {"train": {"root_seed": 5}, "model": {"gate_bias": 1.0}}),
        ("config", {"model": {"gate_bias": 0.5}}, {"model": {"gate_bias": 0.5}}),
        ("config", {"model": 7, "seed": 5}, {"model": 7, "train": {"root_seed": 5}}),
        ("config", {"old": {"a": 1}, "format": 3}, {"new": {"a": 1}}),
        ("export", {"steps": 3}, {"steps": 3}),
    ],
    ids=range(11),
)
def test_values_are_renamed_and_added_format_by_format(
    fake: None, kind: formats.Kind, before: Mapping[str, Any], after: Mapping[str, Any]
) -> None:
    text = json.dumps(before)
    assert upgrade(kind, before) == after
    assert json.dumps(before) == text  # the argument is left as it is
    assert upgrade(kind, with_format(after)) == after


def test_an_added_value_is_not_shared(fake: None) -> None:
    upgrade("run", {})["tags"].append("a")
    assert upgrade("run", {})["tags"] == []


def test_a_newer_format_is_refused_in_one_line(fake: None) -> None:
    with pytest.raises(NewerFormat) as caught:
        upgrade("run", {"format": 5}, Path("runs/a/run.json"))
    assert str(caught.value).startswith("runs/a/run.json: format 5 is newer than charlm_jax ")
    assert "reads formats up to 4: install a newer charlm_jax" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [0, -1, True, 1.0, "1", None, [], {}])
def test_what_is_no_format_is_refused(wrong: object) -> None:
    with pytest.raises(CharlmError, match=r"format=.* must be a positive integer") as caught:
        upgrade("run", {"format": wrong})
    assert not isinstance(caught.value, NewerFormat)


@pytest.mark.core
def test_a_field_that_a_later_version_adds_has_its_old_value_in_old_configs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a new config field needs: the field, its line in base.py, and a format."""
    before = make_tiny_config()
    old = json.loads(json.dumps(before.to_dict()))

    @dataclasses.dataclass(frozen=True)
    class LaterConfig(Config):
        notes: str

    with pytest.raises(CharlmError, match=r"config\.notes is missing"):
        LaterConfig.from_dict(old)
    later = newest_format() + 1
    changes = {**formats.CHANGES, later: {"config": Change(added={"notes": "none"})}}
    monkeypatch.setattr(formats, "CHANGES", changes)
    config = LaterConfig.from_dict(old)
    assert config.notes == "none" and config.model == before.model
    assert LaterConfig.from_dict(config.to_dict()) == config
    values = config.to_dict()
    assert values["format"] == later
    changed = dataclasses.replace(config, notes="some")
    assert LaterConfig.from_dict(changed.to_dict()) == changed
    monkeypatch.undo()
    with pytest.raises(NewerFormat, match=f"format {later} is newer"):
        Config.from_dict(values)


def test_runs_of_format_6_were_not_regularized() -> None:
    """Dropout had a mask of every position, and everything else was off, as it is by default."""
    config = make_tiny_config(**{"model.dropout": 0.3})
    values = json.loads(json.dumps(config.to_dict()))
    for field in formats.CHANGES[7]["config"].added:
        section, name = field.split(".")
        del values[section][name]
    with pytest.raises(CharlmError, match=r"config\.model\.\w+ is missing"):
        Config.from_dict(values)
    assert Config.from_dict({**values, "format": 6}) == config


def test_the_table_leads_to_the_fields_that_there_are() -> None:
    """No entry is misspelt: what is added or renamed to in the end is a field of today."""
    known = {field for field, _ in schema.flatten(make_tiny_config().to_dict())}
    given: set[str] = set()
    for number in sorted(formats.CHANGES):
        change = formats.CHANGES[number].get("config", Change())
        given = (given - change.renamed.keys()) | {*change.renamed.values(), *change.added}
    assert given <= known
    assert sorted(formats.CHANGES) == list(range(2, newest_format() + 1))
