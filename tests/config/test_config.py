"""From file and overrides to a frozen config, or one line that says what is wrong."""

import dataclasses
import importlib
import json
import os
import re
import sys
import types
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from charlm_jax.config.loading import (
    ConfigSource,
    default_names,
    load_config,
    shipped_names,
    sweep_points,
)
from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
from charlm_jax.data.corpora import REGISTRY
from charlm_jax.data.dataset import with_absolute_paths
from charlm_jax.training.remarks import on_overrides
from tests.conftest import ROOT, make_model_config

BASE = str(ROOT / "configs" / "base.py")


@pytest.mark.core
@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_config_resolves(name: str) -> None:
    config = load_config(f"{name}:a/book.txt" if name == "my_text" else name)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_every_field_has_a_comment() -> None:
    lines = Path(BASE).read_text(encoding="utf-8").splitlines()
    fields = {
        match[1]: above
        for above, line in pairwise(lines)
        if (match := re.match(r"    config\.(\S+) = (?!ConfigDict)", line))
    }
    assert fields.keys() == load_config(BASE).flatten().keys()
    assert [field for field, above in fields.items() if not above.startswith("    # ")] == []


def test_no_shipped_config_holds_out_more_than_is_watched_in_training() -> None:
    """Otherwise published rows and best checkpoints would change."""
    for name in shipped_names():
        if name != "my_text":
            config = load_config(name)
            characters = REGISTRY[config.data.corpus].characters
            held_out = config.split.valid_fraction * characters
            assert held_out < config.evaluation.max_characters == 500_000


def test_the_tutorial_says_what_the_textbook_says() -> None:
    config = load_config("tutorial")
    assert config.data.corpus == "mysterious-island"
    assert (config.data.sequence_length, config.data.batch_size) == (40, 64)
    assert (config.split.kind, config.train.epochs) == ("none", 20)
    assert config.model.layers == ("lstm",) and config.model.hidden_size == 512
    assert (config.optimizer.learning_rate, config.optimizer.epsilon) == (1e-3, 1e-7)
    held_out = load_config("tutorial_heldout")
    changed = {k for k, v in held_out.flatten().items() if config.flatten()[k] != v}
    assert changed == {"split.kind"}


def test_overrides_are_read_as_the_type_of_the_field() -> None:
    texts = [
        "model.layers=lstm,gru",
        "data.corpus=a=b.txt",
        "optimizer.learning_rate=2",
        "seed=7",
        "seed=8",
    ]
    config = load_config(BASE, texts)
    assert config.model.layers == ("lstm", "gru")
    assert config.data.corpus == "a=b.txt"
    assert config.optimizer.learning_rate == 2.0
    assert config.seed == 8  # later wins


@pytest.mark.parametrize(
    "text",
    ["lstm,gru", "(lstm, gru)", "[lstm,gru]", "('lstm', \"gru\",)", " ( lstm,gru ) ", "lstm,gru,"],
)
def test_names_may_have_brackets_quotes_and_a_last_comma(text: str) -> None:
    assert load_config(BASE, [f"model.layers={text}"]).model.layers == ("lstm", "gru")


def test_a_mapping_of_dotted_fields_is_a_sweep_point() -> None:
    config = load_config(BASE, {"data.sequence_length": 80, "model.layers": ("gru", "gru")})
    assert (config.data.sequence_length, config.model.layers) == (80, ("gru", "gru"))
    assert config.optimizer == load_config(BASE).optimizer


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.sequense_length=3", "did you mean config.data.sequence_length"),
        ("data=3", "config.data is a section"),
        ("data.corpus.x=3", "not a field"),
        ("seed", "no value"),
        ("seed=-1", "config.seed=-1 is not allowed"),
        ("seed=x", "'x' is not an integer"),
        ("seed=1.5", "'1.5' is not an integer"),
        ("data.sequence_length=0", "config.data.sequence_length=0 is not allowed"),
        ("data.batch_size=-3", "config.data.batch_size=-3 is not allowed"),
        ("split.valid_fraction=1", "between 0 and 1"),
        ("model.layers=", "has 0 layers: it must have 1 to 64"),
        ("model.layers=lstm,,gru", "has an empty name: write config.model.layers=NAME,NAME"),
        ("model.layers=,lstm", "has an empty name"),
        ("model.layers=(lstm,gru", "has half a pair of brackets: write config.model.layers="),
        ("model.layers=lstm,gru]", "has half a pair of brackets"),
        ("model.layers=(lstm,gru]", "has half a pair of brackets"),
        ("model.dropout=1", r"in \[0, 1\)"),
        ("optimizer.learning_rate=nan", "for float32"),
        ("optimizer.learning_rate=1e39", "for float32"),
        ("optimizer.epsilon=1e-50", "for float32"),
        ("train.keep=0", "a number of steps, log, or empty"),
        ("train.keep=" + "9" * 4301, "a number of steps, log, or empty"),
        ("train.keep=-3", "a number of steps, log, or empty"),
        ("train.keep=all", "a number of steps, log, or empty"),
        ("data.batch_size=2147483648", r"in \[1, 2\*\*31\)"),
        ("data.reset_probability=0.5", "0 unless config.data.loader=streams"),
        ("split.test_fraction=0.9", "below 1 together with config.split.valid_fraction=0.1"),
        ("optimizer.learning_rate=fast", "'fast' is not a number"),
        ("optimizer.clip_norm=-1", r"in \[0, "),
        ("train.epochs=0", "config.train.epochs=0 is not allowed"),
    ],
)
def test_a_wrong_override_is_one_clear_line(override: str, message: str) -> None:
    with pytest.raises(CharlmError, match=message) as caught:
        load_config(BASE, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"model.cell_norm": True, "model.layers": ("rnn", "slstm")},
            "config.model.cell_norm=True is not allowed: it must be False for "
            "config.model.layers=rnn,slstm: it is for lstm and gru",
        ),
        (
            {"model.cell_norm": True, "model.mogrifier_rounds": 2},
            "config.model.cell_norm=True is not allowed: it must be False under "
            "config.model.mogrifier_rounds=2",
        ),
        (
            {
                "optimizer.activation_penalty": 2.0,
                "model.block": "pre_norm",
                "model.hidden_size": 256,
            },
            "config.optimizer.activation_penalty=2.0 is not allowed: it must be 0 under "
            "config.model.block=pre_norm: its norms undo the scale of outputs",
        ),
        (
            {
                "optimizer.temporal_penalty": 1.0,
                "model.block": "post_norm",
                "model.hidden_size": 256,
            },
            "config.optimizer.temporal_penalty=1.0 is not allowed: it must be 0 under "
            "config.model.block=post_norm: its norms undo the scale of outputs",
        ),
    ],
    ids=["layers without it", "mogrifier", "pre_norm", "post_norm"],
)
def test_fields_that_would_have_no_effect_are_refused(
    overrides: Mapping[str, object], message: str
) -> None:
    with pytest.raises(CharlmError) as caught:
        load_config(BASE, overrides)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "value"), [("1e3", 1000), ("2.5e2", 250), ("3.0", 3), ("1_0e1", 100), ("1E+4", 10_000)]
)
def test_an_integer_may_be_written_with_an_exponent(text: str, value: int) -> None:
    steps = load_config(BASE, [f"train.max_steps={text}"]).train.max_steps
    assert steps == value and type(steps) is int


@pytest.mark.parametrize("text", ["1.5e0", "1e-3", "1e999999999999", "0e99999999", "inf", "snan"])
def test_only_exact_integers_are_integers(text: str) -> None:
    with pytest.raises(CharlmError, match=f"train.max_steps='{text}' is not an integer"):
        load_config(BASE, [f"train.max_steps={text}"])


# Field -> values that it may be given, and the value that the config has.
GIVEN: Mapping[str, tuple[Sequence[object], object]] = {
    "data.sequence_length": ((np.int64(8), np.array(8), jnp.asarray(8), 8.0, np.float32(8)), 8),
    "optimizer.learning_rate": ((np.float32(0.5), np.float64(0.5), np.array(0.5)), 0.5),
    "optimizer.clip_norm": ((1, np.int8(1), np.array(1)), 1.0),
    "model.qk_norm": ((np.True_, np.array(True)), True),
    "data.encoding": ((np.str_("ascii"),), "ascii"),
    "model.layers": ((["gru"], ("gru",)), ("gru",)),
}


@pytest.mark.parametrize(
    ("field", "given"), [(field, given) for field, (values, _) in GIVEN.items() for given in values]
)
def test_numbers_of_numpy_and_jax_become_pythons(
    field: str, given: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a config file, in the points of its sweep, and in overrides from Python."""
    monkeypatch.setitem(sys.modules, "values", types.SimpleNamespace(GIVEN=given))
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from configs import base\nimport values\n"
        "def get_config():\n"
        "    config = base.get_config()\n"
        f"    config.{field} = values.GIVEN\n"
        "    return config\n"
        "def sweep():\n"
        f"    return [{{{field!r}: values.GIVEN}}]\n"
    )
    (point,) = sweep_points(str(mine))
    expected = GIVEN[field][1]
    for config in (
        load_config(str(mine)),
        load_config(BASE, point=point),
        load_config(BASE, point),
    ):
        value = config.flatten()[field]
        assert value == expected and type(value) is type(expected)


def test_an_override_has_the_type_of_the_field_and_not_of_the_files_value(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from configs import base\ndef get_config():\n    config = base.get_config()\n"
        "    config.model.dropout = 0\n    config.seed = 'one'\n    return config\n"
    )
    assert load_config(str(mine), ["model.dropout=0.5", "seed=2"]).model.dropout == 0.5
    with pytest.raises(CharlmError, match=r"config\.seed='one' has the wrong type"):
        load_config(str(mine))


def test_a_file_that_was_edited_a_moment_ago_is_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's bytecode has the same time and size."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    mine = tmp_path / "mine.py"
    for seed in (1, 2, 3):
        mine.write_text(
            "from configs import base\ndef get_config():\n    config = base.get_config()\n"
            f"    config.seed = {seed}\n    return config\n"
        )
        os.utime(mine, (1_700_000_000, 1_700_000_000))
        assert load_config(str(mine)).seed == seed


def test_a_single_text_is_not_a_list_of_overrides() -> None:
    with pytest.raises(CharlmError, match=r"overrides='seed=2' is one text: .* \['seed=2'\]"):
        load_config(BASE, "seed=2")


def test_names_in_one_text_are_told_how_they_are_written() -> None:
    with pytest.raises(CharlmError, match=r"must be a tuple of names, such as \('lstm', 'gru'\)$"):
        load_config(BASE, {"model.layers": "lstm, gru"})


@pytest.mark.parametrize(
    ("overrides", "remarks"),
    [
        ((), []),
        (("split.valid_fraction=0.2", "split.blocks=5"), ["split.blocks=5", "kind=tail"]),
        (("split.kind=none", "split.valid_fraction=0.2"), ["valid_fraction=0.2", "kind=none"]),
        (("split.counts=rest/9", "split.test_fraction=0.1"), ["test_fraction=0.1", ", counts"]),
        (("data.encoding=latin-1",), ["data.encoding=latin-1", "this corpus has its own"]),
        (("data.corpus=my.txt", "data.encoding=latin-1"), []),
    ],
)
def test_an_override_that_nothing_reads_has_a_remark(
    overrides: tuple[str, ...], remarks: Sequence[str]
) -> None:
    source = ConfigSource("lstm", overrides=overrides)
    found = "\n".join(on_overrides(load_config("lstm", overrides), source))
    assert found.count("has no effect") == bool(remarks)
    assert all(part in found for part in remarks)


@pytest.mark.parametrize("name", ["get_config", "sweep"])
def test_a_tuple_without_its_comma_is_told_what_to_write(name: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    layers = {"get_config": "('gru',)", "sweep": "('gru',)"} | {name: "('gru')"}
    mine.write_text(
        "from configs import base\ndef get_config():\n    config = base.get_config()\n"
        f"    config.model.layers = {layers['get_config']}\n    return config\n"
        f"def sweep():\n    return [{{'model.layers': {layers['sweep']}}}]\n"
    )
    with pytest.raises(CharlmError, match=r"config.model.layers='gru' .* such as \('gru',\)"):
        load_config(str(mine), point=sweep_points(str(mine))[0] if name == "sweep" else None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", True),
        ("seed", "1"),
        ("seed", 1.5),
        ("seed", np.float32(1.5)),
        ("seed", np.array([1])),
        ("seed", np.True_),
        ("model.qk_norm", 1),
        ("model.dropout", []),
        ("model.dropout", np.complex64(0)),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(field: str, value: object) -> None:
    with pytest.raises(CharlmError, match=f"config.{field}.* has the wrong type"):
        load_config(BASE, {field: value})


@pytest.mark.parametrize(
    ("layers", "field"),
    [
        (("self_attention",), "embedding_size"),
        (("lstm", "self_attention"), "hidden_size"),
        (("self_attention", "lstm", "self_attention"), "hidden_size"),
    ],
)
def test_a_width_that_cannot_be_turned_in_pairs_is_refused(
    layers: tuple[str, ...], field: str
) -> None:
    changes: dict[str, object] = {"position": "rotary", "embedding_size": 8, "hidden_size": 8}
    make_model_config(*layers, **changes)
    with pytest.raises(ValueError, match=f"config.model.{field}=7 .*must be even"):
        make_model_config(*layers, **(changes | {field: 7}))


def test_heads_of_an_mlstm_have_more_than_one_number() -> None:
    """The norm of one number is 0, and so would be all that the layer adds and learns."""
    for layers in (("slstm",), ("gated_deltanet", "mamba2")):
        make_model_config(*layers, hidden_size=8, heads=8)
    make_model_config("mlstm", hidden_size=8, heads=4)
    with pytest.raises(CharlmError, match=r"heads=8 .*below config.model.hidden_size=8 for mlstm"):
        make_model_config("lstm", "mlstm", hidden_size=8, heads=8)


def test_from_dict_refuses_missing_and_unknown_fields() -> None:
    values = load_config(BASE).to_dict()
    del values["data"]["corpus"]
    with pytest.raises(CharlmError, match=r"config.data.corpus is missing"):
        Config.from_dict(values)
    values = load_config(BASE).to_dict() | {"sed": 1}
    with pytest.raises(CharlmError, match=r"did you mean config\.seed"):
        Config.from_dict(values)


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_config(BASE).seed = 2  # type: ignore[misc]


def test_a_file_anywhere_may_import_the_shipped_base(tmp_path: Path) -> None:
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "helper.py").write_text("LENGTH = 17\n")
    mine = folder / "mine.py"
    mine.write_text(
        "from configs import base, helper\n"
        "def get_config(corpus):\n"
        "    config = base.get_config()\n"
        "    config.data.corpus = corpus\n"
        "    config.data.sequence_length = helper.LENGTH\n"
        "    return config\n"
    )
    config = load_config(f"{mine}:a:b.txt")
    assert (config.data.corpus, config.data.sequence_length) == ("a:b.txt", 17)
    assert not any(name.split(".")[0] == "configs" for name in sys.modules)


def test_the_files_own_folder_comes_before_the_shipped_configs(tmp_path: Path) -> None:
    """Whatever its name; and the next load does not find what this one has imported."""
    source = "from configs import tutorial\ndef get_config():\n    return tutorial.get_config()\n"
    for name in ("own", "none"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(source)
    (tmp_path / "own" / "tutorial.py").write_text(
        "from configs import base\n"
        "def get_config():\n"
        "    config = base.get_config()\n"
        "    config.seed = 77\n"
        "    return config\n"
    )
    assert load_config(str(tmp_path / "own" / "mine.py")).seed == 77
    assert load_config(str(tmp_path / "none" / "mine.py")) == load_config("tutorial")


def test_somebody_elses_configs_package_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is neither imported by a config file nor gone afterwards, submodules included."""
    (tmp_path / "configs").mkdir()
    for name in ("__init__", "base"):
        (tmp_path / "configs" / f"{name}.py").write_text("OWNER = 'somebody else'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        for is_imported in (False, True):
            if is_imported:
                importlib.import_module("configs.base")
            assert load_config("quickstart").seed == 1
            others = {name: m for name, m in sys.modules.items() if name.startswith("configs")}
            assert [m.OWNER for m in others.values()] == 2 * is_imported * ["somebody else"]
    finally:
        for name in ("configs", "configs.base"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "defines no function get_config"),
        ("def get_config(:", "SyntaxError"),
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("def get_config(): return {}", "returned dict"),
        ("def get_config(): 1 / 0", "ZeroDivisionError"),
        ("import sys\nsys.exit('bad\\nluck')", "failed: SystemExit: bad"),
        ("def get_config(): raise SystemExit", "failed: SystemExit: no message"),
        ("def get_config(path): pass", "needs an argument"),
    ],
)
def test_a_broken_file_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "broken.py"
    file.write_text(text)
    with pytest.raises(CharlmError, match=message) as caught:
        load_config(str(file))
    assert "\n" not in str(caught.value)


def test_a_sweep_that_exits_is_one_clear_line_and_an_interrupt_is_none(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("def sweep(): raise SystemExit(3)")
    with pytest.raises(CharlmError, match="failed: SystemExit: 3"):
        sweep_points(str(file))
    file.write_text("def get_config(): raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_config(str(file))


def test_an_unknown_name_lists_the_shipped_ones() -> None:
    for spec in ("tutorail", "no/such/file.py", "no/such"):
        with pytest.raises(CharlmError, match=", quickstart, "):
            load_config(spec)
    with pytest.raises(CharlmError, match="takes no argument"):
        load_config("tutorial:x")


def test_every_field_of_a_config_pastes_back_as_an_override() -> None:
    config = load_config("tutorial", {"model.layers": ("lstm", "gru")})
    texts = [f"{field}={value}" for field, value in config.flatten().items()]
    assert load_config(BASE, texts) == config


@pytest.mark.parametrize(
    "argument", ["src/**/*.py", "program.py", "a/.pyenv/text.txt", "C:x", "two\nlines", "a:b"]
)
def test_the_argument_may_look_like_a_file(argument: str, tmp_path: Path) -> None:
    assert load_config(f"my_text:{argument}").data.corpus == argument
    folder = tmp_path / ".pyenv"
    folder.mkdir()
    mine = folder / "mine.py"
    mine.write_text((Path(BASE).parent / "my_text.py").read_text())
    assert load_config(f"{mine}:{argument}").data.corpus == argument


@pytest.mark.parametrize(
    ("spec", "names", "former"),
    [
        ("tutorial", ["tutorial"], "tutorial"),
        ("my_text:your.txt", ["my_text-your"], "my_text-your"),
        ("my_text:a/input.txt", ["my_text-input", "my_text-a-input"], "my_text-input"),
        (
            "my_text:books/My book, 2nd.txt",
            ["my_text-My-book-2nd", "my_text-books-My-book-2nd"],
            "my_text-My-book-2nd",
        ),
        ("my_text:src/**/*.py", ["my_text-src-py"], "my_text"),
        ("my_text:/a/b/*.txt", ["my_text-b-txt", "my_text-a-b-txt"], "my_text"),
        ("my_text:*", ["my_text"], "my_text"),
        ("my_text:..", ["my_text"], "my_text"),
        ("my_text:~/.notes", ["my_text-notes"], "my_text-notes"),
        ("my_text:ch.1.txt", ["my_text-ch-1"], "my_text-ch-1"),
        ("transformer:1.6M", ["transformer-1-6M"], "transformer-1"),
        ("sweeps/variants", ["variants"], "variants"),
    ],
)
def test_default_folders_are_named_after_config_and_argument(
    spec: str, names: list[str], former: str
) -> None:
    found = default_names(spec)
    readable = found.names if ":" not in spec else found.names[:-1]
    assert [*readable] == names and found.former == former
    if ":" in spec:
        assert re.fullmatch(rf"{re.escape(names[0])}-[0-9a-f]{{8}}", found.names[-1])


@pytest.mark.parametrize(
    ("spec", "point", "overrides", "absolute"),
    [
        ("quickstart", (), (), ("quickstart", (), ())),
        ("my_text:book.txt", (), ("seed=2",), ("my_text:{here}/book.txt", (), ("seed=2",))),
        ("my_text:b*.txt", (), (), ("my_text:{here}/b*.txt", (), ())),
        (
            "quickstart",
            ("data.corpus=book.txt",),
            ("train.init_from=runs/a",),
            ("quickstart", ("data.corpus={here}/book.txt",), ("train.init_from={here}/runs/a",)),
        ),
        ("mine.py", (), (), ("{here}/mine.py", (), ("data.corpus={here}/book.txt",))),
        ("mine.py", ("data.corpus=shakespeare",), (), None),
        ("mine.py", ("data.corpus=shakespeare",), ("data.corpus=book.txt",), None),
    ],
    ids=range(7),
)
def test_an_absolute_source_gives_the_same_config_in_every_folder(
    spec: str,
    point: tuple[str, ...],
    overrides: tuple[str, ...],
    absolute: ConfigSource | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "book.txt").write_text("a text")
    (here / "mine.py").write_text(
        "from configs import my_text\ndef get_config():\n    return my_text.get_config('book.txt')"
    )
    monkeypatch.chdir(here)
    config = with_absolute_paths(load_config(spec, (*point, *overrides)))
    source = ConfigSource(spec, point, overrides).with_absolute_paths(config)
    if absolute is not None:
        expected = json.loads(json.dumps(absolute).replace("{here}", str(here)))
        assert json.loads(json.dumps(source)) == expected
    monkeypatch.chdir(tmp_path)
    config_flag, *fields = source.flags()
    texts = [field.removeprefix("--config.") for field in fields]
    assert load_config(config_flag.removeprefix("--config="), texts) == config


def test_paths_are_stored_as_utf_8_in_every_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"data.corpus": "tëxt.txt", "train.init_from": "rüns/a"}
    config = load_config("my_text:a.txt", fields)
    monkeypatch.setattr(os, "fsencode", lambda path: path.encode("ascii", "surrogateescape"))
    monkeypatch.setattr(os, "fsdecode", lambda data: data.decode("ascii", "surrogateescape"))
    local = {field: os.fsdecode(text.encode()) for field, text in fields.items()}
    here = load_config("my_text:a.txt", local)
    assert here != config and here.to_dict() == config.to_dict()
    assert Config.from_dict(config.to_dict()) == here
    spec = os.fsdecode("my_text:tëxt.txt".encode())
    assert default_names(spec).names == default_names("my_text:tëxt.txt").names


def test_configs_that_import_each_other_load_in_several_threads_at_once(tmp_path: Path) -> None:
    """A sweep asks from several threads whether its points are finished."""
    files = []
    for name in ("one", "two", "three", "four"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "neighbour.py").write_text(f"NAME = '{name}'\n")
        files.append(tmp_path / name / "mine.py")
        files[-1].write_text(
            "from configs import base\nfrom configs.neighbour import NAME\n\n\n"
            "def get_config():\n    config = base.get_config()\n"
            "    config.data.corpus = NAME\n    return config\n"
        )
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(len(files)) as pool:
            configs = list(pool.map(load_config, [str(file) for file in files] * 10))
    finally:
        sys.setswitchinterval(before)
    assert [config.data.corpus for config in configs] == ["one", "two", "three", "four"] * 10
