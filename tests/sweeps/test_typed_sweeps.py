"""Sweeps that are typed, as `--sweep.FIELD=VALUE,VALUE`, over a config without a `sweep`."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm_jax.cli import main
from charlm_jax.config.loading import parse_values
from charlm_jax.core.errors import CharlmError
from charlm_jax.sweeps.points import default_sweep_folder, load_sweep
from tests.cli_errors.workspace import TINY_FILE
from tests.conftest import examples
from tests.sweeps.test_points import write_sweep


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("tiny.py").write_text(TINY_FILE)
    return "tiny.py"


def test_a_typed_sweep_is_the_one_of_a_file_with_all_combinations(
    tiny: str, tmp_path: Path
) -> None:
    body = "return [{'data.sequence_length': n, 'seed': s} for n in (10, 5) for s in (1, 2)]"
    written = load_sweep(write_sweep(tmp_path / "mine.py", body), ["train.epochs=3"])
    values = ["data.sequence_length=10,5", "seed=1,2"]
    typed = load_sweep(tiny, ["train.epochs=3"], values=values)
    assert [(p.name, p.overrides) for p in typed.points] == [
        (p.name, p.overrides) for p in written.points
    ]
    assert [p.load() for p in typed.points] == [p.load() for p in written.points]


def test_the_command_trains_in_a_folder_named_after_the_fields(
    tiny: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", f"--config={tiny}", "--sweep.train.max_steps=1e1,2", "--dry_run"]
    assert main([*command, "--sweep.model.layers=(lstm,lstm),gru"]) == 0
    folder = "runs/tiny-max_steps-layers"
    out = capsys.readouterr().out
    assert [line.split()[3] for line in out.splitlines()] == [
        f"--workdir={folder}/max_steps={steps}-layers={layers}"
        for steps in (10, 2)
        for layers in ("2xlstm", "gru")
    ]
    assert default_sweep_folder(tiny) == Path("runs/tiny")  # of a run, or a sweep of its own


def test_schedules_of_lengths_are_swept_in_quotes(tiny: str, tmp_path: Path) -> None:
    """Typed or from a file, with folders that any system can hold."""
    schedules = ["", "4:5,16:5", "4:5", "4:5, 16:5"]
    body = f"return [{{'data.length_schedule': text}} for text in {schedules}]"
    written = load_sweep(write_sweep(tmp_path / "mine.py", body))
    values = ",".join(f"'{text}'" for text in schedules)
    typed = load_sweep(tiny, values=[f"data.length_schedule={values}"])
    assert [point.load().data.length_schedule for point in typed.points] == schedules
    names = [point.name for point in typed.points]
    assert names == [point.name for point in written.points]
    assert names[0] == "length_schedule=" and names[2] == "length_schedule=4-5"
    assert len({*names}) == 4 and all(re.fullmatch(r"[\w=.-]+", name) for name in names)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("seed=3", [3]),
        ("optimizer.learning_rate=1e-3, 2", [1e-3, 2.0]),
        ("model.qk_norm=true,false", [True, False]),
        ("model.layers=lstm,gru", [("lstm",), ("gru",)]),
        ("model.layers=(lstm,gru),[gru,gru]", [("lstm", "gru"), ("gru", "gru")]),
        ("data.corpus='a,b.txt',c.txt", ["a,b.txt", "c.txt"]),
        ("data.corpus=[a]*.txt,it's.txt", ["[a]*.txt", "it's.txt"]),
        ("train.keep='',log", ["", "log"]),
        ("no.such=a,b", ["a", "b"]),  # refused with the config
    ],
)
def test_values_are_read_as_the_field_s_type(text: str, values: list[Any]) -> None:
    field, found = parse_values(text)
    assert field == text.partition("=")[0]
    assert found == values and [*map(type, found)] == [*map(type, values)]


@given(names=st.lists(st.text("abc ,()[].*", min_size=1), min_size=1))
@examples(50)
def test_any_texts_can_be_quoted(names: list[str]) -> None:
    assert parse_values("data.corpus=" + ",".join(f"'{name}'" for name in names))[1] == names


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (["seed=1,,2"], "--sweep.seed=1,,2 has an empty value: write --sweep.seed=VALUE"),
        (["seed="], "has an empty value"),
        (["seed=1,"], "has an empty value"),
        (["seed=1", "seed=2"], "--sweep.seed is given twice"),
        (["seed=1,1"], "points 1 and 2 of the sweep are the same"),
        (["seed=x"], "config.seed='x' is not an integer"),
        (["sed=1"], "did you mean config.seed?"),
        (["data=1"], "config.data is a section"),
    ],
)
def test_what_cannot_be_swept_is_one_clear_line(tiny: str, values: list[str], says: str) -> None:
    with pytest.raises(CharlmError) as caught:
        load_sweep(tiny, values=values)
    assert says in str(caught.value)


def test_a_config_with_points_of_its_own_is_refused(tmp_path: Path) -> None:
    spec = write_sweep(tmp_path / "mine.py", "return [{'seed': 1}]")
    with pytest.raises(CharlmError, match=r"--sweep.train.epochs=1: .* points of its own"):
        load_sweep(spec, values=["train.epochs=1"])
