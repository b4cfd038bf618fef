"""What a notebook uses: the README's example as it stands, and what it promises."""

import dataclasses
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pytest

import charlm_jax
from charlm_jax.core.errors import CharlmError
from charlm_jax.data.corpora import list_corpora
from charlm_jax.evaluation import EvalProtocol, Stream, Window
from charlm_jax.sampling.params import SamplingParams
from charlm_jax.sampling.stop_strings import Chunk
from tests.conftest import ROOT, compiled_programs, make_tiny_config

README = ROOT / "README.md"


@pytest.mark.exhaustive
def test_the_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if any(row.name == "shakespeare" and row.state != "installed" for row in list_corpora()):
        pytest.skip("the plays of Shakespeare are not installed")
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(example, str(README), "exec"), names)
    assert isinstance(names["run"], charlm_jax.Run)
    assert (tmp_path / "runs" / "first" / "metrics.jsonl").is_file()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> charlm_jax.Run:
    return charlm_jax.train(make_tiny_config(), tmp_path_factory.mktemp("api") / "run", quiet=True)


def test_training_gives_the_run_and_the_same_call_picks_it_up(
    run: charlm_jax.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    again = charlm_jax.train(make_tiny_config(), run.workdir)
    assert again.checkpoint == run.checkpoint and again.config == run.config
    loaded = charlm_jax.load_run(run.workdir, checkpoint=19)
    assert loaded.checkpoint == 19 and loaded.vocabulary == run.vocabulary
    assert "Array" not in repr(run)  # weights would fill a notebook's screen
    assert capsys.readouterr().err == ""


def test_training_begins_again_or_branches_off(run: charlm_jax.Run, tmp_path: Path) -> None:
    folder = shutil.copytree(run.workdir, tmp_path / "run")
    fields = {"seed": 2, "train.max_steps": 1}
    again = charlm_jax.train(make_tiny_config(**fields), folder, fresh=True, quiet=True)
    assert (again.config.seed, again.checkpoint) == (2, 1)
    assert charlm_jax.load_run(tmp_path / "run.1").config == run.config
    shorter = make_tiny_config(**{"train.max_steps": 30})
    charlm_jax.train(shorter, tmp_path / "short", branch_from=run.workdir, quiet=True)
    facts = json.loads((tmp_path / "short" / "run.json").read_text())
    assert facts["branched_from"] == {"run": str(run.workdir.resolve()), "checkpoint": 19}


def test_text_is_generated_as_it_is_drawn(run: charlm_jax.Run) -> None:
    text = run.generate("ab", characters=40, scale=2.0, seed=3)
    assert len(text) == 40 and set(text) <= set(run.vocabulary.symbols)
    assert run.generate("ab", characters=12, scale=2.0, seed=3) == text[:12]
    chunks = run.sample("ab", characters=40, scales=[0.5, 2.0], seed=3)
    assert "".join(chunk.text for _, chunk in chunks) == text
    greedy = run.generate("ab", characters=40, scale=math.inf)
    for told in ({"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}):
        assert run.generate("ab", characters=40, **told) == greedy
    assert run.generate("ab", characters=40, scale=2.0, seed=3, top_k=10**9, top_p=1) == text
    with pytest.raises(CharlmError, match="the prompt is empty"):
        run.generate("")
    for several in ({"samples": 2}, {"scales": [0.5, 2.0]}):
        with pytest.raises(CharlmError, match="is not for one text: sample returns several"):
            run.generate("ab", **several)  # type: ignore[arg-type]
    for wrong in (b"ab", 5, 0, None, ["ab"]):
        for read in (run.generate, run.continue_text, run.inspect, run.score):
            with pytest.raises(CharlmError, match="a text must be a string"):
                read(wrong)
    with pytest.raises(CharlmError, match="scales has 10,001 numbers: give at most 10,000"):
        run.sample("ab", characters=1, scales=[1.0] * 10_001)
    with pytest.raises(CharlmError, match="scales is empty: give at least one"):
        run.sample("ab", characters=1, scales=[])
    with pytest.raises(CharlmError, match=r"scales=1.0 is not a list of numbers: write"):
        run.sample("ab", characters=1, scales=1.0)  # type: ignore[arg-type]
    for wrong, says in (
        ({"samples": 0}, "samples=0 is not allowed"),
        ({"samples": 2.5}, "samples=2.5 is not allowed: it must be a whole number"),
        ({"seed": 1.5}, "seed=1.5 is not allowed: it must be a whole number"),
        ({"scale": 50.0, "scales": [1.0]}, "scale and scales are given"),
    ):
        with pytest.raises(CharlmError, match=says):
            run.sample("ab", characters=1, **wrong)
    for sampled in (-1, 3):
        with pytest.raises(CharlmError, match=f"sampled={sampled} is not allowed"):
            run.continue_text("ab", characters=1, sampled=sampled)
    for sample in (-1, 2**31):
        with pytest.raises(CharlmError, match=f"sample={sample} is not allowed: it must lie in"):
            run.continue_text("ab", characters=1, sample=sample)


def test_numbers_that_are_not_finite_are_an_error(run: charlm_jax.Run) -> None:
    broken = dataclasses.replace(run, params=jax.tree.map(lambda w: w * np.nan, run.params))
    before = sorted(run.workdir.rglob("*"))
    with pytest.raises(CharlmError, match=f"the model of {run.workdir} computes numbers that are"):
        broken.evaluate(cache=True)
    assert sorted(run.workdir.rglob("*")) == before
    for mode in ("carried", "window"):
        with pytest.raises(CharlmError, match="the model computes numbers that are not finite"):
            broken.generate("ab", characters=1, mode=mode)


def test_a_text_ends_before_the_first_stop_string(run: charlm_jax.Run) -> None:
    text = run.generate("ab", characters=40, seed=3)
    for stop in (text[20:23], text[:1], text[-2:]):
        ended = run.generate("ab", characters=40, seed=3, stop=[stop])
        assert ended == text[: text.index(stop)]
        assert run.generate("ab", characters=40, seed=3, stop=[stop, text[5:8]]) == min(
            ended, text[: text.index(text[5:8])], key=len
        )
    assert run.generate("ab", characters=40, seed=3, stop=["ab" * 21]) == text
    with pytest.raises(CharlmError, match="stop='@' has the character"):
        run.generate("ab", stop=["@"])
    with pytest.raises(CharlmError, match=r"write stop=\['ab'\]"):
        run.generate("ab", stop="ab")


def test_a_number_in_place_of_a_record_is_a_mistake_in_one_line(run: charlm_jax.Run) -> None:
    with pytest.raises(CharlmError, match="give a number of characters as characters=N"):
        run.generate("ab", 50)  # type: ignore[arg-type]
    for call in (run.score, run.top_predictions):
        with pytest.raises(CharlmError, match="protocol=3 is not an evaluation protocol"):
            call("abab", 3)  # type: ignore[operator]


@pytest.mark.core
@pytest.mark.parametrize("mode", ["carried", "window"])
def test_a_text_that_goes_on_is_the_longer_one(run: charlm_jax.Run, mode: str) -> None:
    sampling = SamplingParams(scale=2.0, mode=mode, seed=3)
    chunks = run.sample("ab", sampling, characters=30, samples=2)
    whole = "".join(chunk.text for _, chunk in chunks)
    text = ""
    for characters in (13, 0, 17):
        more = run.continue_text(
            "ab" + text, sampling, characters=characters, sample=1, sampled=len(text)
        )
        text += "".join(chunk.text for chunk in more)
    assert text == whole
    with pytest.raises(CharlmError, match="the prompt is empty"):
        run.continue_text("", sampling, characters=3)


def test_sampling_params_and_their_fields_are_the_same_settings(run: charlm_jax.Run) -> None:
    sampling = SamplingParams(scale=0.7, top_k=3, seed=5)
    text = run.generate("ab", sampling, characters=30)
    assert text == run.generate("ab", characters=30, scale=0.7, top_k=3, seed=5)
    changed = run.generate("ab", sampling, characters=30, seed=6)
    assert changed == run.generate("ab", characters=30, scale=0.7, top_k=3, seed=6) != text
    ended = run.sample("ab", sampling, characters=30, samples=2, stop=[text[4:7]])
    assert "".join(chunk.text for chunk, _ in ended) == text[: text.index(text[4:7])]
    with pytest.raises(CharlmError, match="temperature is not a parameter; did you mean scale"):
        run.generate("ab", temperature=0.5)


def test_texts_are_drawn_by_the_programs_that_are_there(run: charlm_jax.Run) -> None:
    run.generate("ab", characters=20, top_k=2)
    for mode, context in (("carried", None), ("window", 500)):
        told = {"mode": mode, "context": context}
        run.generate("abab", characters=20, top_k=2, seed=1, **told)
        with compiled_programs() as programs:
            run.generate("baba", characters=25, top_k=3, seed=2, **told)
        assert not programs
    with compiled_programs() as programs:  # which shows that one would be noticed
        jax.jit(lambda x: x + 1)(1.0)
    assert programs


@pytest.mark.core
@pytest.mark.parametrize("protocol", [Stream(), Window(3)], ids=str)
def test_a_text_is_scored_character_by_character(
    run: charlm_jax.Run, protocol: EvalProtocol
) -> None:
    text = "abcdabcd" * 3
    score = run.score(text, protocol)
    assert score.characters == len(score.nll_N) == len(text) - 1
    assert score.loss_nats == pytest.approx(score.nll_N.mean(), rel=1e-5)
    assert score.bits_per_char == pytest.approx(score.loss_nats / math.log(2))
    for end in (2, 7):  # what comes later does not count
        np.testing.assert_allclose(run.score(text[:end], protocol).nll_N, score.nll_N[: end - 1])
    assert run.score("ab@cd", unknown="drop").characters == 3
    for wrong in ("", "a", "ab@"):
        with pytest.raises(CharlmError):
            run.score(wrong)


def test_the_score_of_the_held_out_text_is_that_of_the_evaluation(run: charlm_jax.Run) -> None:
    evaluation, nll_N = run.evaluate(Stream())
    from charlm_jax.data.dataset import load_dataset

    text = load_dataset(run.config).corpus.text
    part = run.score(text[-301:])
    np.testing.assert_allclose(part.nll_N, nll_N, atol=1e-6)
    assert part.loss_nats == pytest.approx(evaluation.loss_nats)


@pytest.mark.core
def test_public_names_are_there_and_importing_them_waits_for_nothing() -> None:
    for name in charlm_jax.__all__:
        assert getattr(charlm_jax, name).__doc__
    assert set(charlm_jax.__all__) <= set(dir(charlm_jax))
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        _ = charlm_jax.tarin
    script = "import sys, charlm_jax; print('jax' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.stdout == "False\n"


def test_few_programs_score_texts_of_all_lengths(run: charlm_jax.Run) -> None:
    text = run.vocabulary.symbols * 60
    with compiled_programs() as programs:
        for length in range(2, 202):
            run.score(text[:length])
            run.score(text[:length], Window(8))
            run.top_predictions(text[:length], Window(100))
    # The stream; windows by the number of rows; windows by length, up to 128.
    assert len(programs) <= 1 + 6 + 2 * 8, programs


@pytest.mark.parametrize("mode", ["carried", "window"])
@pytest.mark.parametrize("most", [1, 4])
def test_texts_sampled_batch_by_batch_are_those_sampled_at_once(
    run: charlm_jax.Run, mode: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = {"characters": 30, "samples": 5, "scales": [0.5, 2.0], "top_p": 0.9, "stop": ["ab"]}
    whole = list(run.sample("ab", mode=mode, **how))
    monkeypatch.setattr("charlm_jax.inference.trained_model.rows_at_once", lambda *_, **__: most)
    batched = list(run.sample("ab", mode=mode, **how))
    assert [_text(row) for row in zip(*whole, strict=True)] == [
        _text(row) for row in zip(*batched, strict=True)
    ]
    assert all(chunk.has_ended for chunk in batched[-1])


def _text(chunks: Sequence[Chunk]) -> tuple[str, str | None]:
    return "".join(chunk.text for chunk in chunks), chunks[-1].stopped_by
