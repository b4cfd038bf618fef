"""What a sweep is: its points, their names and commands, and the manifest that says so."""

import json
import re
import shlex
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm_jax.cli import main
from charlm_jax.config.loading import load_config, shipped_names
from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
from charlm_jax.sweeps.points import (
    OtherSweep,
    Sweep,
    claim,
    find_source,
    load_sweep,
    make_manifest,
    make_point,
    point_names,
    refuse_other,
)
from charlm_jax.sweeps.slurm import undone_on_refusal
from tests.conftest import TINY, examples

SWEEPS = [name for name in shipped_names() if name.startswith("sweeps/")]
ARGUMENTS = {
    "sweeps/learning_rate": ["", ":lstm", ":gru", ":attention", ":transformer", ":hybrid"],
    "sweeps/model_scale": ["", ":lstm", ":transformer", ":mingru"],
    "sweeps/sequence_length": ["", ":lstm", ":transformer", ":mingru"],
    "sweeps/variants": [""],
}
SPECS = [name + argument for name in SWEEPS for argument in ARGUMENTS[name]]

GRID = """
    return [
        {"data.sequence_length": length, "data.batch_size": 80 // length, "seed": seed}
        for length in (5, 10) for seed in (1, 2)
    ]
"""


def write_sweep(file: Path, body: str, *, argument: str = "", **changes: object) -> str:
    """Write a config file with a sweep, tiny otherwise; returns its path as a spec."""
    fields = "".join(f"    config.{name} = {value!r}\n" for name, value in (TINY | changes).items())
    file.write_text(
        f"from configs import base\n\n\ndef get_config({argument}):\n"
        f"    config = base.get_config()\n{fields}    return config\n\n\n"
        f"def sweep({argument}):\n    {body.strip()}\n"
    )
    return str(file)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Write the body of a `sweep` into a file; returns the file as a spec."""
    return lambda body, **options: write_sweep(tmp_path / "mine.py", body, **options)


def typed(command: str) -> tuple[str, str, Config]:
    """What somebody types who pastes a command: its config, its workdir, and what they mean."""
    program, train, config, workdir, *fields = shlex.split(command)
    assert (program, train) == ("charlm", "train")
    spec = config.removeprefix("--config=")
    texts = [field.removeprefix("--config.") for field in fields]
    assert all(field.startswith("--config.") for field in fields)
    return spec, workdir.removeprefix("--workdir="), load_config(spec, texts)


# Points


@pytest.mark.core
def test_a_point_is_named_after_the_fields_that_tell_it_from_the_others(
    write: Callable[..., str],
) -> None:
    sweep = load_sweep(write(GRID))
    assert [point.name for point in sweep.points] == [
        "sequence_length=5-seed=1",
        "sequence_length=5-seed=2",
        "sequence_length=10-seed=1",
        "sequence_length=10-seed=2",
    ]
    assert sweep.points[2].overrides == ("data.sequence_length=10", "data.batch_size=8", "seed=1")


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ("return [{}]", ["point"]),
        ("return [{'seed': 3}]", ["seed=3"]),
        ("return [{}, {'seed': 3}]", ["seed=1", "seed=3"]),
        (
            "return [{'data.batch_size': 3}, {'evaluation.batch_size': 3}, {}]",
            [
                "data.batch_size=3-evaluation.batch_size=7",
                "data.batch_size=16-evaluation.batch_size=3",
                "data.batch_size=16-evaluation.batch_size=7",
            ],
        ),
        (
            "return [{'model.layers': x} for x in (('gru',) * 3, ['lstm', 'gru'])]",
            ["layers=3xgru", "layers=lstm+gru"],
        ),
        ("return ({'optimizer.learning_rate': x} for x in (1, 1e-5))", None),
        (
            "return [{'optimizer.learning_rate': x} for x in (1, 1e-5)]",
            ["learning_rate=1.0", "learning_rate=1e-05"],
        ),
    ],
)
def test_names(write: Callable[..., str], body: str, names: list[str] | None) -> None:
    if names is None:
        with pytest.raises(CharlmError, match="returned generator, not a list"):
            load_sweep(write(body))
        return
    assert [point.name for point in load_sweep(write(body)).points] == names


VALUES = st.one_of(
    st.text(max_size=8),
    st.text("aA/ .", max_size=3),
    st.text(min_size=90, max_size=300),
    st.integers(),
    st.floats(allow_nan=False),
    st.booleans(),
    st.lists(st.sampled_from(["lstm", "gru"]), max_size=5).map(tuple),
)


@examples(2)
@given(
    st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=8, unique_by=lambda v: repr(v)),
)
def test_names_are_those_of_files_everywhere_and_no_two_are_alike(
    values: list[tuple[Any, Any]],
) -> None:
    configs = [{"a.field": a, "b.field": b} for a, b in values]
    if len({tuple(config.values()) for config in configs}) < len(configs):
        return  # 1, 1.0 and True are the same value
    names = point_names(configs, ["a.field", "b.field"])
    assert len({name.lower() for name in names}) == len(names)
    for name in names:
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_.+=-]{0,99}", name)
    assert names == point_names(configs, ["a.field", "b.field"])


@pytest.mark.parametrize("values", [("a", "A"), ("a/b", "a b"), ("a" * 200, "a" * 201)])
def test_names_that_some_file_system_would_not_tell_apart_end_in_a_code(
    values: tuple[str, ...],
) -> None:
    configs = [{"data.corpus": value} for value in (*values, "c")]
    *coded, plain = point_names(configs, ["data.corpus"])
    assert plain == "corpus=c" and len({name.lower() for name in coded}) == 2
    assert all(re.fullmatch(r"corpus=.*-[0-9a-f]{8}", name) for name in coded)


@pytest.mark.core
def test_later_wins_base_file_point_command_line(write: Callable[..., str]) -> None:
    body = "return [{'seed': s, 'train.epochs': 5, 'model.dropout': 0.5} for s in (1, 2)]"
    spec = write(body, **{"train.epochs": 4, "train.log_every_steps": 3})
    first, _ = (point.load() for point in load_sweep(spec).points)
    assert first.optimizer == load_config(spec).optimizer  # of base.py
    assert (first.train.log_every_steps, first.train.epochs, first.model.dropout) == (3, 5, 0.5)
    overridden = load_sweep(spec, ["train.epochs=6", "train.log_every_steps=7", "train.epochs=8"])
    for seed, point in enumerate(overridden.points, start=1):
        config = point.load()
        assert (config.seed, config.train.epochs, config.train.log_every_steps) == (seed, 8, 7)
        assert config.model.dropout == 0.5
    assert [point.name for point in overridden.points] == ["seed=1", "seed=2"]


def test_the_argument_reaches_a_sweep_that_takes_one(write: Callable[..., str]) -> None:
    body = "return [{'seed': int(x)}, {'seed': int(x) + 1}]"
    sweep = load_sweep(write(body, argument="x='4'"))
    assert [point.name for point in sweep.points] == ["seed=4", "seed=5"]
    spec = write(body, argument="x") + ":7"
    assert [point.load().seed for point in load_sweep(spec).points] == [7, 8]
    with pytest.raises(CharlmError, match=r"needs an argument: write --config=.*mine.py:X"):
        load_sweep(spec.removesuffix(":7"))


def test_a_file_beside_a_sweep_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "lengths.py").write_text("LENGTHS = (5, 10)\n")
    body = (
        "from configs import lengths\n    return [{'data.sequence_length': n} for n in "
        "lengths.LENGTHS]"
    )
    names = [p.name for p in load_sweep(write_sweep(tmp_path / "mine.py", body)).points]
    assert names == ["sequence_length=5", "sequence_length=10"]


# Refusals


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return {'seed': 1}", "returned dict, not a list of dicts"),
        ("return []", "returned no points"),
        ("return [{'seed': 1}, 2]", "point 2 of .* is 2: it must be a dict of dotted fields"),
        ("return [{'seed': 1}, {3: 4}]", "point 2 of .*: it must be a dict of dotted fields"),
        ("return 1 / 0", "ZeroDivisionError"),
        ("return [{'sed': 1}]", r"point 1 of the sweep \(sed=1\): .*did you mean config.seed"),
        ("return [{'data': 1}]", r"point 1 .*config.data is a section"),
        ("return [{}, {'seed': 1.5}]", r"point 2 .*config.seed=1.5 has the wrong type"),
        ("return [{'seed': True}]", r"point 1 .*config.seed=True has the wrong type"),
        ("return [{'model.layers': (1, 2)}]", r"point 1 .*a tuple of names"),
        ("return [{'model.layers': 'lstm'}]", r"config.model.layers='lstm' has the wrong type"),
        ("return [{'seed': '1'}]", r"config.seed='1' has the wrong type"),
        (
            "return [{'data.batch_size': 4}, {'data.batch_size': 0}]",
            r"point 2 of the sweep \(data.batch_size=0\): config.data.batch_size=0 is not allowed",
        ),
        (
            "return [{'seed': 2}, {'seed': 1}, {'seed': 2}]",
            r"points 1 and 3 of the sweep are the same \(seed=2\)",
        ),
        ("return [{}, {'seed': 1}]", r"points 1 and 2 of the sweep are the same \(seed=1\)"),
        ("return [{}, {}]", r"points 1 and 2 of the sweep are the same: remove"),
    ],
)
def test_what_is_no_sweep_is_one_clear_line(
    write: Callable[..., str], body: str, message: str
) -> None:
    with pytest.raises(CharlmError, match=message) as caught:
        load_sweep(write(body))
    assert "\n" not in str(caught.value)


def test_a_config_without_a_sweep_is_refused() -> None:
    with pytest.raises(CharlmError, match="defines no function sweep: use charlm train"):
        load_sweep("tutorial")
    with pytest.raises(CharlmError, match="sweeps/sequence_length"):
        load_sweep("sequence_length")
    with pytest.raises(
        CharlmError,
        match="unknown name 'x' after the colon of --config: it must be one of lstm, tran",
    ):
        load_sweep("sweeps/sequence_length:x")
    with pytest.raises(CharlmError, match="takes no argument"):
        load_sweep("sweeps/variants:x")


@pytest.mark.core
def test_an_override_of_what_the_points_differ_in_is_refused(write: Callable[..., str]) -> None:
    spec = write("return [{'seed': s, 'train.epochs': 5} for s in (1, 2)]")
    with pytest.raises(CharlmError, match=r"seed=3: the sweep varies config.seed itself \(1, 2\)"):
        load_sweep(spec, ["seed=3"])
    with pytest.raises(CharlmError, match=r"^config.sed is not a field"):
        load_sweep(spec, ["sed=3"])
    with pytest.raises(CharlmError, match=r"^config.train.epochs=0 is not allowed"):
        load_sweep(spec, ["train.epochs=0"])
    assert [p.load().train.epochs for p in load_sweep(spec, ["train.epochs=6"]).points] == [6, 6]
    single = load_sweep(write("return [{'seed': 1}]"), ["seed=3"])
    assert [(p.name, p.load().seed) for p in single.points] == [("seed=3", 3)]


def test_a_file_may_have_numbers_of_numpy(tmp_path: Path) -> None:
    file = tmp_path / "arrays.py"
    file.write_text(
        "import numpy as np\nfrom configs import base\n\n\ndef get_config():\n"
        "    config = base.get_config()\n    config.seed = np.array(8)\n    return config\n\n\n"
        "def sweep():\n    return [{}, {'seed': 4}]\n"
    )
    assert [point.load().seed for point in load_sweep(str(file)).points] == [8, 4]


def test_an_override_that_a_point_cannot_bear_names_the_point(write: Callable[..., str]) -> None:
    spec = write("return [{'model.hidden_size': n} for n in (5, 10)]")
    message = r"^point 2 of the sweep \(model.hidden_size=10\): config.model.hidden_size=10 .*tied"
    with pytest.raises(CharlmError, match=message):
        load_sweep(spec, ["model.tied_embedding=true"])


def test_a_point_needs_no_sense_without_the_overrides() -> None:
    overrides = ["data.loader=streams"]
    sweep = load_sweep("quickstart", overrides, values=["data.reset_probability=0,0.1"])
    assert [point.load().data.reset_probability for point in sweep.points] == [0.0, 0.1]
    with pytest.raises(CharlmError, match=r"point 2 of the sweep \(data.reset_probability=0.1\)"):
        load_sweep("quickstart", values=["data.reset_probability=0,0.1"])


# The manifest


def test_a_manifest_says_what_the_sweep_is(write: Callable[..., str], tmp_path: Path) -> None:
    spec, folder = write(GRID), tmp_path / "my runs"
    sweep = load_sweep(spec, ["train.epochs=1"])
    claim(sweep, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest == make_manifest(sweep, folder)
    assert (manifest["config"], manifest["overrides"]) == (spec, ["train.epochs=1"])
    for point, row in zip(sweep.points, manifest["points"], strict=True):
        assert (row["name"], row["workdir"]) == (point.name, point.name)
        assert tuple(row["overrides"]) == point.overrides
        there, workdir, config = typed(row["command"])
        assert (there, Path(workdir)) == (spec, folder / point.name)
        assert config == point.load()


@pytest.mark.core
def test_a_folder_holds_one_sweep(write: Callable[..., str], tmp_path: Path) -> None:
    folder, sweep = tmp_path / "runs", load_sweep(write(GRID))
    claim(sweep, folder)
    before = (folder / "manifest.json").read_bytes()
    claim(load_sweep(write(GRID)), folder)

    def refused(other: Sweep) -> str:
        with pytest.raises(CharlmError) as caught:
            claim(other, folder)
        assert "\n" not in str(caught.value) and "choose another workdir" in str(caught.value)
        return str(caught.value)

    fewer = refused(load_sweep(write("return [{'data.sequence_length': 5}]")))
    assert "runs of both would be mixed" in fewer
    assert "point sequence_length=5-seed=1 is missing now" in fewer and "and 2 more" in fewer
    assert "point sequence_length=5 is new" in refused(
        Sweep(sweep.config, (), (*sweep.points, load_sweep(fewer_spec(write)).points[0]))
    )
    changed = refused(load_sweep(write(GRID.replace("80", "90"))))
    assert "point sequence_length=5-seed=1 was [" in changed and "batch_size=18" in changed
    assert "overrides was [] and is now ['train.epochs=1']" in refused(
        load_sweep(write(GRID), ["train.epochs=1"])
    )
    assert (folder / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("is_same", [True, False])
def test_of_two_sweeps_that_claim_a_folder_at_once_one_has_it(
    write: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_same: bool
) -> None:
    folder, sweep = tmp_path / "runs", load_sweep(write(GRID))
    other = sweep if is_same else load_sweep(fewer_spec(write))

    def claim_before(late: Sweep, folder: Path) -> dict[str, Any]:
        monkeypatch.setattr("charlm_jax.sweeps.points.make_manifest", make_manifest)
        claim(other, folder)
        return make_manifest(late, folder)

    monkeypatch.setattr("charlm_jax.sweeps.points.make_manifest", claim_before)
    refused = pytest.raises(OtherSweep, match="runs of both would be mixed")
    with nullcontext() if is_same else refused, undone_on_refusal(folder):
        claim(sweep, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest == make_manifest(other, folder)
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]


def fewer_spec(write: Callable[..., str]) -> str:
    return write("return [{'data.sequence_length': 5}]")


@pytest.mark.parametrize(
    "damage", [b"", b"\xff", b"[]", b"{}", b'{"points": [{}], "config": "", "overrides": []}']
)
def test_a_damaged_manifest_is_one_clear_line(
    write: Callable[..., str], tmp_path: Path, damage: bytes
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "manifest.json").write_bytes(damage)
    with pytest.raises(CharlmError, match=r"manifest.json is damaged"):
        claim(load_sweep(write(GRID)), tmp_path / "runs")


def test_a_folder_of_something_else_is_not_taken(write: Callable[..., str], tmp_path: Path) -> None:
    sweep, folder = load_sweep(write(GRID)), tmp_path / "thesis"
    refuse_other(sweep, folder)
    assert not folder.exists()
    folder.mkdir()
    (folder / "manifest.json.01234567.partial").write_text("{")  # its writer was killed
    claim(sweep, folder)
    (folder / "manifest.json").rename(folder / "thesis.tex")
    (folder / "manifest.json.01234567.partial").unlink()
    for place, message in ((folder, "is not a sweep"), (folder / "thesis.tex", "is not a folder")):
        with pytest.raises(CharlmError, match=message):
            claim(sweep, place)
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


# What is shipped


@pytest.mark.parametrize("spec", SPECS)
def test_every_shipped_sweep_is_one(spec: str) -> None:
    sweep, own = load_sweep(spec), load_config(spec).flatten()
    configs = [point.load().flatten() for point in sweep.points]
    assert len(sweep.points) > 1
    for point, config in zip(sweep.points, configs, strict=True):
        set_there = {text.partition("=")[0] for text in point.overrides}
        assert {field for field in own if config[field] != own[field]} <= set_there
        for field in set_there:  # nothing is set that is the same everywhere
            assert len({other[field] for other in configs}) > 1, field


def test_all_arms_of_the_lengths_read_equally_many_characters_in_equally_many_steps() -> None:
    for spec in [spec for spec in SPECS if "sequence_length" in spec]:
        configs = [point.load() for point in load_sweep(spec).points]
        lengths = dict.fromkeys(config.data.sequence_length for config in configs)
        assert list(lengths) == [5, 10, 20, 40, 80, 160, 320, 640]
        assert len({c.data.batch_size * c.data.sequence_length for c in configs}) == 1
        assert (
            len({(c.train.max_steps, c.train.epochs, c.evaluation_context) for c in configs}) == 1
        )
        assert configs[0].train.max_steps > 0
        seeds = {length: [] for length in lengths}  # type: dict[int, list[int]]
        for config in configs:
            seeds[config.data.sequence_length].append(config.seed)
        assert len({tuple(value) for value in seeds.values()}) == 1


def test_the_variants_are_the_shipped_configs() -> None:
    points = [point.load() for point in load_sweep("sweeps/variants").points]
    names = ("lstm", "gru", "attention", "transformer", "mingru", "hybrid")
    assert [config for config in points if config.seed == 1] == [load_config(n) for n in names]
    assert len(points) == 18


def test_the_middle_of_a_scale_is_the_shipped_config() -> None:
    for name in ("lstm", "transformer", "mingru"):
        points = [point.load() for point in load_sweep(f"sweeps/model_scale:{name}").points]
        assert load_config(name) in points
        sizes = {config.model.hidden_size for config in points}
        rates = [
            {c.optimizer.learning_rate for c in points if c.model.hidden_size == s} for s in sizes
        ]
        assert all(rate == rates[0] for rate in rates) and len(sizes) == 4


# The command


def test_a_dry_run_prints_commands_and_writes_nothing(
    write: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = tmp_path / "it's a text.txt"
    text.write_text("a" * 100)
    spec = write(GRID, **{"data.corpus": "x"})
    monkeypatch.chdir(tmp_path)
    command = ["sweep", f"--config={spec}", f"--config.data.corpus={text.name}", "--dry_run"]
    assert main([*command, "--workdir=out dir"]) == 0
    lines = capsys.readouterr().out.splitlines()
    points = load_sweep(spec, [f"data.corpus={text.name}"]).points
    for line, point in zip(lines, points, strict=True):
        there, workdir, config = typed(line)
        assert (there, workdir) == (spec, f"out dir/{point.name}")
        assert config.data.corpus == text.name
        absolute = {"corpus": str(text), "init_from": ""}
        assert config.with_paths(**absolute) == point.load()
    assert main(command) == 0
    assert "--workdir=runs/mine/sequence_length=5-seed=1 " in capsys.readouterr().out
    left = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}  # Python's own, of mine.py
    assert left == {text.name, "mine.py"}


def test_what_a_value_is_on_the_command_line_is_read_back(write: Callable[..., str]) -> None:
    values: Mapping[str, Any] = {
        "model.layers": ("gru", "lstm"),
        "model.qk_norm": True,
        "optimizer.learning_rate": 1e-5,
        "train.init_from": "",
        "data.corpus": "a b='c',\"d\"",
        "seed": 2**32 - 1,
    }
    spec = write("return [{}]")
    point = make_point("mine", spec, values)
    assert load_config(spec, point.overrides) == load_config(spec, values)
    assert typed(point.command(Path("my runs"))) == (
        spec,
        "my runs/mine",
        load_config(spec, values),
    )


def test_the_source_of_a_point_has_its_fields_apart(
    write: Callable[..., str], tmp_path: Path
) -> None:
    spec = write(GRID)
    sweep = load_sweep(spec, ["train.epochs=3"])
    folder = tmp_path / "runs"
    claim(sweep, folder)
    for point in sweep.points:
        source = find_source(folder / point.name, point.config, point.overrides)
        assert source.overrides == ("train.epochs=3",)
        assert source.point == point.overrides[:-1] and len(source.point) == 3
        assert load_config(spec, [*source.point, *source.overrides]) == load_config(
            spec, point.overrides
        )


@pytest.mark.parametrize("change", ["name", "spec", "overrides", "torn", "missing"])
def test_another_run_beside_a_sweep_has_no_point(
    write: Callable[..., str], tmp_path: Path, change: str
) -> None:
    spec = write(GRID)
    sweep = load_sweep(spec)
    folder, (point, *_) = tmp_path / "runs", sweep.points
    claim(sweep, folder)
    name, overrides = point.name, point.overrides
    if change == "torn":
        (folder / "manifest.json").write_text('{"config": ')
    elif change == "missing":
        (folder / "manifest.json").unlink()
    elif change == "name":
        name = "mine"
    elif change == "spec":
        spec = "quickstart"
    else:
        overrides = (*overrides, "train.epochs=3")
    source = find_source(folder / name, spec, overrides)
    assert source == (spec, (), tuple(overrides))
