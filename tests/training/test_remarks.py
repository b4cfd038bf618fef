"""Lines about runs that learnt nothing, kept no symbol, or failed."""

from pathlib import Path

import pytest

from charlm_jax.core.errors import CharlmError
from charlm_jax.inference.run import load_run
from charlm_jax.training.loop import train_and_evaluate
from tests.conftest import Notes, make_tiny_config


def _notes(workdir: Path, **changes: object) -> list[str]:
    view = Notes()
    train_and_evaluate(make_tiny_config(**{"train.max_steps": 2, **changes}), workdir, view=view)
    return view.lines


@pytest.mark.parametrize(("rate", "says"), [(30.0, True), (1e-2, False)])
def test_a_run_that_is_worse_than_guessing_evenly_says_so(
    rate: float, says: bool, tmp_path: Path
) -> None:
    changes = {"optimizer.learning_rate": rate, "train.max_steps": 38}
    notes = _notes(tmp_path / "run", **changes)
    assert any("is not below that of guessing evenly" in note for note in notes) is says
    again = _notes(tmp_path / "run", **changes)  # it is done
    assert not any("guessing evenly" in note for note in again)


@pytest.mark.parametrize(("characters", "says"), [("uvwxyz", True), ("axyzvw", False)])
def test_weights_without_any_symbol_of_the_text_are_named(
    characters: str, says: bool, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("abcdefg" * 500)
    (tmp_path / "b.txt").write_text(characters * 500)
    _notes(tmp_path / "a", **{"data.corpus": str(tmp_path / "a.txt")})
    source = {"data.corpus": str(tmp_path / "b.txt"), "train.init_from": str(tmp_path / "a")}
    notes = _notes(tmp_path / "b", **source)
    assert any("none of the 6 symbols of this text" in note for note in notes) is says


def test_a_run_that_failed_before_its_first_checkpoint_names_its_fault(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(CharlmError, match="step 2"):
        _notes(run, **{"optimizer.learning_rate": 1e38, "split.kind": "none", "train.max_steps": 9})
    with pytest.raises(
        CharlmError, match=rf"failed before .* replay --workdir={run} .*{run}/fault"
    ):
        load_run(run)
