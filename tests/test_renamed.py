"""Old public names answer with the new ones."""

import copy
import importlib

import pytest

import charlm_jax
from charlm_jax.inference import trained_model
from charlm_jax.inference.run import Run, load_run
from tests.storage.test_old_runs import FOLDER


@pytest.mark.parametrize("name", charlm_jax._RENAMED)
def test_an_old_module_answers_with_the_new_one(name: str) -> None:
    new = f"charlm_jax.{charlm_jax._RENAMED[name]}"
    with pytest.raises(AttributeError, match=f"no attribute '{name}': it is now {new}$"):
        getattr(charlm_jax, name)
    importlib.import_module(new)


def test_an_unknown_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match=r"^module 'charlm_jax' has no attribute 'lop'$"):
        charlm_jax.lop  # noqa: B018


@pytest.fixture(scope="module")
def run() -> Run:
    with pytest.warns(UserWarning, match="was saved by an earlier version"):
        return load_run(FOLDER / "lstm")


@pytest.mark.parametrize("name", trained_model._RENAMED)
def test_an_old_method_answers_with_the_new_one(run: Run, name: str) -> None:
    new = trained_model._RENAMED[name]
    with pytest.raises(AttributeError) as caught:
        getattr(run, name)
    assert str(caught.value) == f"'Run' object has no attribute '{name}': it is now {new}"
    assert hasattr(Run, new.partition("(")[0])


def test_other_missing_attributes_are_named_as_ever(run: Run) -> None:
    with pytest.raises(AttributeError, match=r"^'Run' object has no attribute 'x'$"):
        run.x  # noqa: B018
    assert not hasattr(run, "__array__")
    assert copy.copy(run).checkpoint_label == run.checkpoint_label
