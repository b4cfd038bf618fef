"""Held-out losses that the page names are those of `charlm compare`."""

import dataclasses
from pathlib import Path

import pytest

from charlm_jax.comparison import compare as compare_module
from charlm_jax.comparison.compare import compare
from charlm_jax.core.errors import CharlmError
from charlm_jax.data.splits import Part, size
from charlm_jax.evaluation.ngram import last_characters
from charlm_jax.inference.run import Run, load_run
from charlm_jax.report.playground import held_out
from charlm_jax.report.playground.held_out import (
    HeldOut,
    describe_held_out,
    measure_held_out,
    recorded_held_out,
)
from charlm_jax.report.playground.model_data import rounded_params
from charlm_jax.report.playground.page import playground
from tests.conftest import FakeNotebook, make_tiny_config
from tests.inference.test_export import build_run

TEXT = "".join(f"{n * n % 97} foxes jump over {n % 7} dogs.\n" for n in range(60))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("text")
    (folder / "fox.txt").write_text(TEXT)
    config = make_tiny_config(**{"data.corpus": str(folder / "fox.txt"), "split.kind": "tail"})
    return build_run(folder / "run", config)


def test_the_losses_are_those_of_a_comparison(run: Run) -> None:
    found = measure_held_out(run, precision="int8")
    comparison = compare(run)
    evaluation = comparison.groups[0].evaluations[0]
    by_name = {baseline.name: baseline.bits_per_char for baseline in comparison.baselines}
    rounded = dataclasses.replace(run, params=rounded_params(run.params, "int8"))
    assert found == HeldOut(
        model=evaluation.bits_per_char,
        rounded=rounded.evaluate(evaluation.key.protocol)[0].bits_per_char,
        ngram=by_name[f"{found.order}-gram (Kneser-Ney)"],
        order=found.order,
        xz=by_name["xz"],
        training=size(run.dataset().parts["train"]),
        context=run.config.evaluation_context,
    )
    assert found.rounded != found.model and by_name["xz"] != by_name["gzip"]


def test_an_n_gram_of_a_part_of_the_text_is_said_to_be(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def last(part: Part, most: int = 1000) -> Part:
        return last_characters(part, most)

    for module in (compare_module, held_out):
        monkeypatch.setattr(module, "last_characters", last)
    found = measure_held_out(run)
    names = [baseline.name for baseline in compare(run).baselines]
    assert found.counted == 1000
    assert f"{found.order}-gram (Kneser-Ney, of the last 1,000 characters)" in names
    _, sentence = describe_held_out(found, precision="float32", unit="character")
    named = f"The {found.order}-gram counted only the last 1,000 characters"
    assert sentence == f"{named} of the training text."


def test_a_notebook_shows_the_progress_of_scoring(
    run: Run, notebook: FakeNotebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[dict[str, str]] = []
    monkeypatch.setattr(notebook, "update", lambda bundle, *, raw: drawn.append(bundle))
    playground(run)
    assert drawn[0]["text/html"].startswith("<progress") and set(drawn[-1].values()) == {""}
    drawn.clear()
    playground(run, held_out=HeldOut(None))  # nothing to compute
    assert drawn == []


def test_a_text_that_is_not_scored_leaves_what_training_recorded(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "recorded_loss", 1.0)
    monkeypatch.setattr(held_out, "MOST_CHARACTERS", len(TEXT) - 1)
    longer = measure_held_out(run)
    assert longer == recorded_held_out(run, longer.missing)._replace(
        training=size(run.dataset().parts["train"])
    )
    assert f"longer than {len(TEXT) - 1:,} characters" in longer.missing
    gone = load_run(run.workdir)
    monkeypatch.setattr(held_out, "MOST_CHARACTERS", 10**9)
    monkeypatch.setattr(Run, "dataset", lambda *_: _raise())
    missed = measure_held_out(gone)
    assert "not at hand" in missed.missing and missed.reason == "no text"
    with pytest.raises(CharlmError, match="no text"):  # one that was named must be the text
        measure_held_out(load_run(run.workdir, corpus="fox.txt"))
    with pytest.raises(CharlmError, match="precision='int4'"):
        measure_held_out(run, precision="int4")


def test_a_model_of_a_whole_text_has_no_held_out_loss(tmp_path: Path) -> None:
    (tmp_path / "fox.txt").write_text(TEXT)
    config = make_tiny_config(**{"data.corpus": str(tmp_path / "fox.txt"), "split.kind": "none"})
    found = measure_held_out(build_run(tmp_path / "run", config))
    assert found == HeldOut(None, training=len(TEXT), missing=found.missing)
    (sentence,) = describe_held_out(found, precision="float32", unit="character")
    assert sentence.endswith("is unknown: the model was trained on the whole text.")


def test_what_is_unknown_is_said() -> None:
    figures = HeldOut(1.672, missing="the text is gone")
    sentences = describe_held_out(figures, precision="bfloat16", unit="byte")
    assert sentences == [
        "Training recorded a held-out loss of 1.67 bits per byte. "
        "No other predictor is named here: the text is gone.",
        "Its weights are rounded to bfloat16: what that costs was not measured.",
    ]
    for figures in (HeldOut(1.672), HeldOut(None)):  # nothing on why, for example on flags
        (sentence,) = describe_held_out(figures, precision="float32", unit="byte")
        assert sentence.count(".") == 1 + sentence.count("1.67") and "None" not in sentence


def _raise() -> None:
    raise CharlmError("no text")
