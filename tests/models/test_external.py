"""Mixers outside the package: a name imports nothing, and finds only what is a mixer."""

import importlib.metadata
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from flax import linen as nn

import charlm_jax
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.import_path import first_on_path, without_current_folder
from charlm_jax.inference.run import load_run
from charlm_jax.models import build_model
from charlm_jax.models.external import MixerSource, allow_module, installed_mixers
from charlm_jax.models.mixers import MIXERS, build_mixer, external_sources
from charlm_jax.models.testing import check_mixer
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.loop import train_and_evaluate
from charlm_jax.training.reproduce import verify_run
from tests.conftest import Notes, make_model_config, make_tiny_config
from tests.models.own_mixer import SOURCE, write_mixer
from tests.training.test_loop import StopAt

TELLTALE = "from pathlib import Path\nPath(__file__).with_name('executed').touch()\n"


@pytest.fixture(autouse=True)
def _forget_modules() -> Iterator[None]:
    """Modules that a test imports are gone after it, and `sys.path` is as it was."""
    modules, path = dict(sys.modules), list(sys.path)
    yield
    for name in sys.modules.keys() - modules:
        if name.startswith("own_"):
            del sys.modules[name]
    assert sys.path == path


def refusal(layer: str) -> str:
    """The message for a layer that cannot be built."""
    with pytest.raises(CharlmError) as caught:
        build_model(make_model_config(layer), 5)
    assert layer.partition(":")[0] in str(caught.value)
    return str(caught.value)


# Which modules may be used.


def test_a_name_imports_nothing_not_even_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mixer(tmp_path / "own_mixer.py", TELLTALE)
    monkeypatch.chdir(tmp_path)
    with first_on_path(tmp_path):
        said = refusal("own_mixer:Sum")
    assert "(--allow_module=path/to/own_mixer.py)" in said
    assert not (tmp_path / "executed").exists() and "own_mixer" not in sys.modules


def test_an_imported_module_may_be_used(tmp_path: Path) -> None:
    write_mixer(tmp_path / "own_mixer.py")
    with first_on_path(tmp_path):
        import own_mixer  # type: ignore[import-not-found]
    mixer = build_mixer("own_mixer:Sum", make_model_config("own_mixer:Sum", hidden_size=7), 5)
    assert type(mixer) is own_mixer.Sum and mixer.size == 7  # type: ignore[attr-defined]


def test_an_allowed_file_imports_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "own_width.py").write_text("WIDTH = 3\n")
    write_mixer(tmp_path / "own_mixer.py", "import own_width\nassert own_width.WIDTH == 3\n")
    allow_module(str(tmp_path / "own_mixer.py"))
    build_model(make_model_config("own_mixer:Sum"), 5)
    allow_module(str(tmp_path / "own_mixer.py"))  # again: it is this very module
    allow_module("own_mixer")


def test_an_importable_module_is_allowed_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "__init__.py").touch()
    write_mixer(tmp_path / "own_package" / "layers.py")
    with first_on_path(tmp_path):
        allow_module("own_package.layers")
    build_model(make_model_config("own_package.layers:Sum"), 5)


@pytest.mark.parametrize(
    ("module", "source", "says"),
    [
        ("own module", None, "is not a module: it must be a name such as my_module, or a file"),
        ("own_mixer:Sum", None, "is not a module"),
        (".own_mixer", None, "is not a module"),
        ("own_nowhere", None, "no module 'own_nowhere' can be imported"),
        ("own_nowhere.layers", None, "no module 'own_nowhere' can be imported"),
        ("{folder}/own_nowhere.py", None, "there is no such file"),
        ("{folder}/own-mixer.py", "", "'own-mixer' cannot be the name of a module: rename"),
        ("{folder}/json.py", "", "another module 'json' is already imported, from "),
        ("{folder}/sys.py", "", "another module 'sys' is already imported: rename"),
        ("{folder}/own_mixer.py", "1 / 0", "failed: ZeroDivisionError: division by zero"),
        ("{folder}/own_mixer.py", "def (", "failed: SyntaxError: "),
        ("{folder}/own_mixer.py", "import own_x", "ModuleNotFoundError: No module named 'own_x'"),
        ("{folder}/own_mixer.py", "raise SystemExit(3)", "failed: SystemExit: 3"),
        ("own_mixer", "import own_x", "failed: ModuleNotFoundError: No module named 'own_x'"),
        ("own_mixer", "raise ValueError('a\\nb')", "failed: ValueError: a"),
    ],
)
def test_a_module_that_cannot_be_allowed_is_one_line(
    module: str, source: str | None, says: str, tmp_path: Path
) -> None:
    module = module.format(folder=tmp_path)
    if source is not None:
        (tmp_path / Path(module).name).with_suffix(".py").write_text(source)
    with first_on_path(tmp_path), pytest.raises(CharlmError) as caught:
        allow_module(module)
    assert str(caught.value).startswith(f"--allow_module={module}") or "is not a module" in says
    assert says in str(caught.value)
    assert "own_mixer" not in sys.modules


# Which classes may be built.

CLASSES = """
from charlm_jax.models.lstm import LSTM

class Plain(nn.Module):
    pass

class Other:
    @classmethod
    def from_config(cls, model, width):
        raise SystemExit("called")

class Fails(Sum):
    @classmethod
    def from_config(cls, model, width):
        raise KeyError("heads")

class Gives(Sum):
    @classmethod
    def from_config(cls, model, width):
        return 3

class Stateless(nn.Module):
    @classmethod
    def from_config(cls, model, width):
        return cls()
    def __call__(self, x_BTD, state):
        return x_BTD, state

class Projects(Sum):
    def project(self, x):
        return x

class Holds(Sum):
    project: int = 3
    def mix(self, z, state):
        return z, state

class Uncallable(nn.Module):
    @classmethod
    def from_config(cls, model, width):
        return cls()
    def initial_state(self, batch_size, context):
        return ()

def __getattr__(name):
    raise SystemExit("imports on demand")
"""


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        ("own_mixer:", "it must be module:Class, such as my_module:MyMixer"),
        (":Sum", "it must be module:Class"),
        ("own_mixer:Sum:x", "it must be module:Class"),
        ("own_mixer.py:Sum.x", "it must be module:Class"),
        ("own/mixer:Sum", "it must be module:Class"),
        (
            "own_mixer:Som",
            "module own_mixer has no class Som; its mixers are Sum, Fails, Gives, Stateless, "
            "Projects, Holds, Uncallable",
        ),
        ("own_mixer:LSTM", "defined in another module: name charlm_jax.models.lstm:LSTM"),
        ("charlm_jax.models.lstm:LSTM", "no class method from_config(model, width); the module"),
        ("own_mixer:Plain", "Plain has no class method from_config(model, width)"),
        ("own_mixer:Other", "is not a subclass of flax.linen.Module"),
        ("own_mixer:jnp", "is not a subclass of flax.linen.Module"),
        ("own_mixer:Fails", "from_config failed: KeyError: 'heads'"),
        ("own_mixer:Gives", "from_config returned int: it must return a flax.linen.Module"),
        ("own_mixer:Stateless", "Stateless has no method initial_state"),
        ("own_mixer:Projects", "Projects has a `project` that is not the first of the methods"),
        ("own_mixer:Holds", "Holds has a `project` that is not the first of the methods"),
        ("own_mixer:Uncallable", "Uncallable has no method __call__"),
        ("os:system", "system of module os is not a subclass of flax.linen.Module; the module"),
        ("builtins:exec", "is not a subclass of flax.linen.Module"),
        ("charlm_jax:loop", "module charlm_jax has no class loop"),
        ("charlm_jax.cli:main", "is not a subclass of flax.linen.Module"),
    ],
)
def test_only_a_mixer_of_the_module_is_built(layer: str, says: str, tmp_path: Path) -> None:
    write_mixer(tmp_path / "own_mixer.py", CLASSES)
    allow_module(str(tmp_path / "own_mixer.py"))
    import charlm_jax.cli  # noqa: F401 - so that it is imported

    assert says in refusal(layer)


def test_an_unknown_name_says_that_a_class_can_be_named() -> None:
    assert "it must be a module:Class of your own, or one of lstm, gru" in refusal("lstn")


# Installed entry points.


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with an installed package that has a mixer `own`."""
    facts = tmp_path / "site" / "own_package-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: own-package\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[charlm_jax.mixers]\nown = own_mixer:Sum\n")
    write_mixer(facts.parent / "own_mixer.py", TELLTALE)
    return facts.parent


def test_an_installed_entry_point_is_imported_when_it_is_named(installed: Path) -> None:
    with first_on_path(installed):
        assert installed_mixers() == {"own": "own_mixer:Sum"}
        assert ", ".join([*MIXERS, "own"]) in refusal("lstn")
        build_model(make_model_config("lstm"), 5)
        assert not (installed / "executed").exists()
        config = make_model_config("own", "own_mixer:Sum", "lstm")
        build_model(config, 5)
        short, full = external_sources(config)
    assert short == full._replace(layer="own")
    assert short.file == str(installed / "own_mixer.py")


@pytest.mark.parametrize("first", ["{folder}", ""], ids=["python -m", "python -c"])
def test_what_lies_in_the_current_folder_is_not_installed(
    first: str, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(installed)
    monkeypatch.setattr(sys, "path", [first.format(folder=installed), *sys.path])
    before = list(sys.path)
    assert installed_mixers() == {}
    assert "is not known" in refusal("own")
    assert "--allow_module=own_mixer" in refusal("own_mixer:Sum")
    assert sys.path == before and not (installed / "executed").exists()


def test_an_installed_module_is_not_taken_from_the_current_folder(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    write_mixer(here / "own_mixer.py", TELLTALE)
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [str(here), str(installed), *sys.path])
    build_model(make_model_config("own"), 5)
    assert (installed / "executed").exists() and not (here / "executed").exists()
    with without_current_folder():
        assert sys.path[0] == str(installed)


def entry_points(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    points = [importlib.metadata.EntryPoint(*item, "charlm_jax.mixers") for item in values.items()]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)


def test_the_packages_own_names_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    entry_points(monkeypatch, lstm="own_mixer:Sum")
    assert type(build_mixer("lstm", make_model_config("lstm"), 5)).__name__ == "LSTM"
    assert external_sources(make_model_config("lstm")) == ()


def test_two_packages_with_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    values = ("own_one:Sum", "own_two:Sum", "own_one:Sum")
    points = [importlib.metadata.EntryPoint("own", v, "charlm_jax.mixers") for v in values]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    said = refusal("own")
    assert "two installed packages have a mixer 'own' (own_one:Sum, own_two:Sum)" in said


def test_an_installed_module_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    entry_points(monkeypatch, own="own_nowhere:Sum")
    said = refusal("own")
    assert "installed module own_nowhere failed: ModuleNotFoundError: No module named" in said


# Runs.

TWO_STEPS = {"train.max_steps": 2, "model.layers": ("own_mixer:Sum",)}


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, str]:
    """A run with a layer of one's own, and the hash of its module."""
    digest = write_mixer(tmp_path / "own_mixer.py")
    allow_module(str(tmp_path / "own_mixer.py"))
    train_and_evaluate(make_tiny_config(**TWO_STEPS), tmp_path / "run")
    return tmp_path / "run", digest


def test_a_run_records_module_file_and_hash(trained: tuple[Path, str]) -> None:
    run, digest = trained
    facts = Workdir(run).read_facts()
    file = str(run.parent / "own_mixer.py")
    source = {"layer": "own_mixer:Sum", "module": "own_mixer", "file": file, "sha256": digest}
    assert facts["mixers"] == [source]
    assert [session["mixers"] for session in facts["sessions"]] == [[source]]
    with pytest.warns() as seen:  # reading it says nothing
        load_run(run)
        warnings.warn("the only one", stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["the only one"]


def test_a_run_of_the_packages_own_layers_records_none(tmp_path: Path) -> None:
    train_and_evaluate(make_tiny_config(**{"train.max_steps": 1}), tmp_path / "run")
    facts = Workdir(tmp_path / "run").read_facts()
    assert facts["mixers"] is None and "mixers" not in facts["sessions"][0]


def test_a_module_whose_session_saved_nothing_is_not_that_of_the_weights(
    trained: tuple[Path, str],
) -> None:
    run, before = trained
    after = write_mixer(run.parent / "own_mixer.py", "# changed\n")
    longer = make_tiny_config(**TWO_STEPS | {"train.max_steps": 30})
    with pytest.raises(KeyboardInterrupt):
        train_and_evaluate(longer, run, view=StopAt(10, times=2))
    with pytest.warns(UserWarning, match=f"trained with .*{before}, and this is .*{after}"):
        load_run(run)


def test_a_changed_module_is_a_warning_and_a_resumed_run_records_both(
    trained: tuple[Path, str],
) -> None:
    run, before = trained
    file = run.parent / "own_mixer.py"
    after = write_mixer(file, "# changed\n")
    says = (
        f"module own_mixer of layer own_mixer:Sum has changed: the run was trained with {file}, "
        f"sha256 {before}, and this is {file}, sha256 {after}"
    )
    for read in (load_run, verify_run):
        with pytest.warns(UserWarning) as seen:
            read(run)
        assert [str(warning.message) for warning in seen] == [f"{run}: {says}"]
        assert [warning.filename for warning in seen] == [__file__]
    notes = Notes()
    train_and_evaluate(make_tiny_config(**TWO_STEPS | {"train.max_steps": 3}), run, view=notes)
    assert f"may not be equal to an uninterrupted run: {says}" in notes.lines
    facts = Workdir(run).read_facts()
    assert facts["mixers"][0]["sha256"] == after
    hashes = [session["mixers"][0]["sha256"] for session in facts["sessions"]]
    assert hashes == [before, after]


def test_a_branch_knows_what_its_first_steps_were_trained_with(trained: tuple[Path, str]) -> None:
    run, before = trained
    write_mixer(run.parent / "own_mixer.py", "# changed\n")
    notes, longer = Notes(), make_tiny_config(**TWO_STEPS | {"train.max_steps": 3})
    train_and_evaluate(longer, run.parent / "branched", branch_from=run, view=notes)
    assert any("own_mixer:Sum has changed" in line and before in line for line in notes.lines)


def test_a_run_is_refused_with_what_it_records(trained: tuple[Path, str]) -> None:
    run, digest = trained
    exported = run.parent / "exported"
    charlm_jax.write_export(load_run(run), exported)
    write_mixer(run.parent / "own_mixer.py", TELLTALE)
    del sys.modules["own_mixer"]
    for folder in (run, exported):
        with first_on_path(run.parent), pytest.raises(CharlmError) as caught:
            load_run(folder)
        said = str(caught.value)
        assert said.startswith(f"{folder} cannot be read: config.model.layers='own_mixer:Sum'")
        assert "--allow_module=" in said
        assert f"(recorded: module own_mixer, {run.parent}/own_mixer.py, sha256 {digest})" in said
    assert not (run.parent / "executed").exists()
    allow_module(str(run.parent / "own_mixer.py"))
    for folder in (run, exported):
        with pytest.warns(UserWarning, match=f"sha256 {digest}, and this is"):
            load_run(folder)


def test_an_export_records_what_the_run_was_trained_with(trained: tuple[Path, str]) -> None:
    run, digest = trained
    write_mixer(run.parent / "own_mixer.py", "# changed\n")
    with pytest.warns(UserWarning, match="has changed"):
        charlm_jax.write_export(load_run(run), run.parent / "one")
    with pytest.warns(UserWarning, match=f"sha256 {digest}, and"):
        charlm_jax.write_export(load_run(run.parent / "one"), run.parent / "two")
    for file in (run.parent / "one").iterdir():
        assert (run.parent / "two" / file.name).read_bytes() == file.read_bytes()


def test_a_class_that_is_defined_again_is_built_again(trained: tuple[Path, str]) -> None:
    """As in a notebook, where a cell may run twice: models are shared by equal configs."""
    run, _ = trained
    first = load_run(run)
    module = sys.modules["own_mixer"]
    module.Sum = type("Sum", (module.Sum,), {"__module__": "own_mixer"})  # type: ignore[attr-defined]
    assert load_run(run).model is not first.model
    assert load_run(run).model is load_run(run).model
    module.Sum = nn.Dense  # type: ignore[attr-defined]
    with pytest.raises(CharlmError, match="is defined in another module"):
        load_run(run)


def test_a_notebooks_class_has_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = types.ModuleType("__main__")
    exec(SOURCE, vars(notebook))
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    sources = external_sources(make_model_config("__main__:Sum"))
    assert sources == (MixerSource("__main__:Sum", "__main__", None, None),)


@pytest.mark.parametrize(
    "mixers", [3, "own", [3], [{}], [{"layer": "a", "module": "b", "file": 3, "sha256": None}]]
)
def test_a_damaged_record_is_one_line(mixers: object, trained: tuple[Path, str]) -> None:
    workdir = Workdir(trained[0])
    workdir.write_facts({**workdir.read_facts(), "mixers": mixers})
    with pytest.raises(CharlmError, match=r"run\.json is damaged"):
        load_run(workdir.path)


def test_a_mixer_of_ones_own_keeps_the_contract(tmp_path: Path) -> None:
    write_mixer(tmp_path / "own_mixer.py")
    with pytest.raises(CharlmError, match="--allow_module=own_mixer"):
        check_mixer("own_mixer:Sum")
    allow_module(str(tmp_path / "own_mixer.py"))
    assert len(check_mixer("own_mixer:Sum")) == 22


def test_no_name_of_the_package_could_be_a_module_and_class() -> None:
    assert not [name for name in MIXERS if ":" in name]
