"""Names of other programs lead to ours, wherever they are typed, and ours to themselves."""

import pytest

from charlm_jax.cli import main
from charlm_jax.cli.commands import COMMANDS
from charlm_jax.cli.entry_point import _build_parser
from charlm_jax.cli.repl import Session
from charlm_jax.config.loading import load_config
from charlm_jax.core import foreign_names
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.foreign_names import FIELDS, FLAGS, NONE, NOTES
from charlm_jax.sampling.params import SamplingParams
from tests.conftest import ROOT
from tests.evaluation.test_text_score import random_run

BASE = str(ROOT / "configs" / "base.py")


def _flags(command: str) -> set[str]:
    (subparsers,) = _build_parser([command])._subparsers._group_actions  # type: ignore[union-attr]
    return set(subparsers.choices[command]._option_string_actions)  # type: ignore[index, call-overload]


def test_our_names_exist_and_no_name_is_in_two_tables() -> None:
    fields = set(load_config(BASE).flatten())
    assert {field for ours in FIELDS.values() for field in ours.split(" and ")} <= fields
    assert set(FLAGS.values()) <= {"JAX_PLATFORMS"}.union(*map(_flags, COMMANDS))
    assert set(foreign_names.COMMANDS.values()) <= set(COMMANDS)
    assert not set(foreign_names.COMMANDS) & set(COMMANDS)
    assert not {*FIELDS} & {*NONE} and not {*FLAGS} & {*NONE} and not {*FIELDS} & {*FLAGS}
    assert {*NOTES} <= {*FIELDS, *FLAGS}
    assert not {*FIELDS, *NONE} & {field.rpartition(".")[2] for field in fields} - {"max_length"}


def _said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    try:
        assert main(arguments) == 2
    except SystemExit as stop:
        assert stop.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.mark.core
@pytest.mark.parametrize("name", FIELDS)
def test_a_field_is_suggested_everywhere(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    ours = FIELDS[name].split(" and ")
    train = ["train", f"--config={BASE}", "--workdir=new"]
    for typed in (name, f"data.{name}"):
        said = _said([*train, f"--config.{typed}=1"], capsys)
        assert f"did you mean config.{' and config.'.join(ours)}" in said
    said = _said([*train, f"--{name.replace('_', '-')}=1"], capsys)
    assert f"did you mean --config.{' and --config.'.join(ours)}" in said
    with pytest.raises(CharlmError, match=f"did you mean config.{ours[0]}"):
        load_config(BASE, {name: 1})


@pytest.mark.core
@pytest.mark.parametrize("name", NONE)
def test_there_is_none_is_said(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["train", f"--config={BASE}", f"--config.{name}=1"],
        ["train", f"--config={BASE}", f"--{name}"],
        ["sample", "--workdir=x", f"--{name}=1"],
    ):
        assert f"there is none: {NONE[name]}" in _said(arguments, capsys)


SAMPLING = [name for name, flag in FLAGS.items() if flag in _flags("sample")]
PARAMETERS = {"--prompt": "prompt", "--chars": "characters", "--num": "samples"}


@pytest.mark.parametrize("name", SAMPLING)
def test_a_flag_of_sample_is_suggested_and_a_parameter_in_python(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flag = FLAGS[name]
    said = _said(["sample", "--workdir=x", f"--{name}=1"], capsys)
    assert f"did you mean {flag}" in said and (name not in NOTES or NOTES[name] in said)
    parameter = PARAMETERS.get(flag, flag.lstrip("-"))
    if flag not in ("--workdir", "--checkpoint"):
        with pytest.raises(CharlmError, match=f"did you mean {parameter}"):
            random_run("run", "ab", 0).generate("a", **{name: 1})


@pytest.mark.parametrize("name", sorted({*FLAGS} - {"max_length"}))  # a field
def test_training_is_offered_what_it_has(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    ours = FLAGS[name]
    for command in ("train", "sweep", "summary"):
        said = _said([command, f"--config={BASE}", f"--{name}=1"], capsys)
        is_known = ours in (*_flags(command), "JAX_PLATFORMS")
        assert (f"did you mean {ours}" in said) == is_known
        is_of_sample = not is_known and ours not in _flags("train")
        assert (f"it is a setting of charlm sample: {ours}" in said) == is_of_sample
    with pytest.raises(CharlmError) as caught:
        load_config(BASE, {f"train.{name}": 1})
    is_argument = ours in (*_flags("train"), "JAX_PLATFORMS")
    hint = f"did you mean {ours.lstrip('-')}" if is_argument else f"of charlm sample: {ours}"
    assert hint in str(caught.value)


def test_our_flags_are_parameters_too() -> None:
    run = random_run("run", "ab", 0)
    for name, ours in {"chars": "characters", "num": "samples", "sed": "seed"}.items():
        with pytest.raises(CharlmError, match=f"^{name} is not a parameter; did you mean {ours}?"):
            run.generate("a", SamplingParams(), **{name: 1})
    with pytest.raises(CharlmError, match="xyzzy is not a parameter; known: prompt, characters"):
        run.generate("a", xyzzy=1)


def test_commands_and_a_session_know_them(capsys: pytest.CaptureFixture[str]) -> None:
    for name, ours in foreign_names.COMMANDS.items():
        assert f"unknown command '{name}', did you mean {ours}?" in _said([name], capsys)
    said: list[str] = []
    run = random_run("run", "ab", 0)
    session = Session(run, SamplingParams(), write=said.append, note=said.append)
    for line in ("/temperature 2", "/max_new_tokens 9", "/num_beams 2", "/start a"):
        assert session.handle_line(line)
    assert said == [
        "unknown command /temperature, did you mean /scale (1 / temperature)?",
        "unknown command /max_new_tokens, did you mean /chars?",
        "unknown command /num_beams, there is none: text is sampled, without a beam search",
        "unknown command /start, /help lists the commands",
    ]
