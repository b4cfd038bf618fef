"""The study of scale factors: its settings, its tables, and the whole of it on tiny runs."""

import dataclasses
import functools
import itertools
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from charlm_jax.analysis.calibration import Bin, zero_crossing
from charlm_jax.analysis.memorization import CopiedSpan
from charlm_jax.analysis.text_quality import TextQuality
from charlm_jax.core.errors import CharlmError
from charlm_jax.evaluation import Stream
from charlm_jax.evaluation.bootstrap import Interval
from charlm_jax.inference.run import load_run
from charlm_jax.storage.checkpoint import Checkpoints
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.loop import train_and_evaluate
from experiments.scale_factor import __main__ as study
from experiments.scale_factor import figures as pictures
from experiments.scale_factor.__main__ import FIGURES, main
from experiments.scale_factor.measures import (
    GRID_A,
    HeldOut,
    MeasuredText,
    RunResults,
    build_human_text,
    check_runs,
    choose_prompt,
    measure_run,
    name_runs,
)
from experiments.scale_factor.settings import (
    SETTINGS,
    UNCHANGED,
    SamplePlan,
    Setting,
    check_plan,
    truncated,
)
from experiments.scale_factor.tables import TITLE, snippets, tables
from tests.conftest import ROOT, make_tiny_config

SCALES = (0.5, 1.0, 1.5, 2.0)
PLAN = SamplePlan("the isle", 4, 60, 0)


def _near(mean: float, half: float = 0.01) -> Interval:
    return Interval(mean, mean - half, mean + half)


def _judgement(*, valid: float, repeated: float, excess: float, copy: int = 0) -> TextQuality:
    shares = {
        "distinct_6grams": 0.9,
        "distinct_word_bigrams": 0.9,
        "compressed_bits_per_char": 4.0,
        "copied": copy / 1000,
        "longest_copy_characters": float(copy),
    }
    return TextQuality(
        samples=4,
        characters=60,
        word_validity=_near(valid),
        repeated=_near(repeated),
        divergence_bits=_near(0.9 - excess),
        excess_bits=_near(excess),
        longest_copy=CopiedSpan(0, 3, copy, 1234) if copy else None,
        **{name: _near(value) for name, value in shares.items()},
    )


def _text(setting: Setting, judgement: TextQuality) -> MeasuredText:
    samples = ["and the sea, and the sea was high.\n" * 2] * 4
    nats = 1.5 / max(setting.scale, 0.1)
    entropy_ST = nats + np.linspace(-0.1, 0.1, 240).reshape(4, 60)
    return MeasuredText(setting, samples, judgement, _near(nats), _near(nats + 0.01), entropy_ST)


def _run_results(calibrated: float = 0.8, even: Interval | None = None) -> RunResults:
    judgements = [
        _judgement(valid=0.3, repeated=0.0, excess=0.7),
        _judgement(valid=0.8, repeated=0.01, excess=0.31),
        _judgement(valid=0.95, repeated=0.02, excess=0.3, copy=30),
        _judgement(valid=0.96, repeated=0.4, excess=0.5, copy=25),
    ]
    texts = [
        _text(Setting("scale", scale, 0, 1.0, 0.0), judgement)
        for scale, judgement in zip(SCALES, judgements, strict=True)
    ]
    texts.append(_text(Setting("top_k", 1.0, 5, 1.0, 0.0), judgements[1]))
    held_out = HeldOut(
        characters=5_000,
        loss=_near(1.4),
        least_loss=_near(1.35),
        calibrated=_near(calibrated),
        loss_A=1.35 + np.log(GRID_A / calibrated) ** 2,
        entropy_A=1.35 + np.log(GRID_A / calibrated) ** 2 - 2 * np.log(GRID_A / calibrated),
        bins=[Bin(p, _near(p, p / 10), 10.0) for p in (0.01, 0.1, 0.9)],
        least_loss_N=np.full(5_000, 1.35),
    )
    human = _text(UNCHANGED, _judgement(valid=0.96, repeated=0.02, excess=0.0, copy=20))
    return RunResults("isle, checkpoint 7", held_out, human, texts, even)


def _lines(*runs: RunResults) -> list[str]:
    return tables(runs, plan=PLAN, command="python x").splitlines()


def test_the_summaries_have_the_numbers_of_the_run() -> None:
    lines = _lines(_run_results(even=Interval(1.1, 1.0, 1.2)))
    assert lines[0] == TITLE and "    python x" in lines
    for line in (
        "| isle, checkpoint 7 | 1.4000 [1.3900, 1.4100] | 1.3500 [1.3400, 1.3600] | "
        "0.800 [0.790, 0.810] | 1.100 [1.000, 1.200] | 1.5 | 0.300 [0.290, 0.310] |",
        "| isle, checkpoint 7 | scale 1.5 (temperature 0.667) | 0.300 [0.290, 0.310] | "
        "0.950 [0.940, 0.960] | 0.900 [0.890, 0.910] |",
        "| isle, checkpoint 7 | top_k 5 | 0.310 [0.300, 0.320] | 0.800 [0.790, 0.810] | "
        "0.900 [0.890, 0.910] |",
        "| isle, checkpoint 7 | scale 1.5 (temperature 0.667) | 30 | 1,234 | "
        "' the sea, and the sea was high' |",
        "Smallest excess of the scales: scale 1.5 (temperature 0.667), 0.300 [0.290, 0.310] bits. "
        "Overlapping intervals: 1.",
    ):
        assert line in lines


def test_what_is_not_known_leaves_its_cell_empty() -> None:
    run = _run_results()
    valid = (0.97, None, 0.97, 0.3)
    texts = [
        text._replace(
            judgement=text.judgement._replace(
                word_validity=share and _near(share), longest_copy=None
            )
        )
        for text, share in zip(run.texts, valid, strict=False)
    ]
    is_open = Interval(0.8, -np.inf, np.inf)
    held_out = run.held_out._replace(calibrated=is_open)
    lines = _lines(run._replace(held_out=held_out, texts=texts))
    (of_run,) = (line for line in lines if line.startswith("| isle, checkpoint 7 | 1.4"))
    assert "| 0.800 |  | 1.5 |" in of_run  # no interval, and no scale of equal entropy
    (row,) = (line for line in lines if line.startswith("| scale 1 "))
    assert row.startswith("| scale 1 (temperature 1) |  | 0.900")
    copies = lines.index("## Longest copy from the training text")
    assert lines[copies + 3].startswith("|---") and lines[copies + 4] == ""
    (alone,) = (x for x in _lines(run._replace(texts=texts[2:3])) if x.startswith("Smallest"))
    assert alone.endswith("Overlapping intervals: none.")


def test_only_the_default_prompt_is_replaced(trained: Path) -> None:
    run = load_run(trained)
    start = run.dataset().part("valid")[0].start
    assert choose_prompt([run], None, "valid") == run.dataset().corpus.text[start : start + 40]
    assert choose_prompt([run], "abca", "valid") == "abca"


def test_runs_on_bytes_are_refused(trained: Path) -> None:
    run = load_run(trained)
    check_runs([run])
    run = dataclasses.replace(run, vocabulary=run.vocabulary.with_unit("bytes"))
    with pytest.raises(CharlmError, match="tiny models bytes: this study counts and compares"):
        check_runs([run])


def test_runs_of_one_name_are_told_apart(trained: Path, tmp_path: Path) -> None:
    twin = tmp_path / trained.name
    shutil.copytree(trained, twin)
    runs = [load_run(folder) for folder in (trained, twin)]
    names = name_runs(runs)
    assert names == [f"{run.workdir}, checkpoint {run.checkpoint}" for run in runs]
    assert name_runs(runs[:1]) == [f"tiny, checkpoint {runs[0].checkpoint}"]


def test_the_tables_and_the_figures(tmp_path: Path) -> None:
    results = [_run_results(), _run_results(1.3, Interval(1.1, 1.0, 1.2))]
    files = [
        pictures.save_picture(results, tmp_path / "scale_factor.png", about="4 samples"),
        pictures.save_reliability(results, tmp_path / "reliability.png"),
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files)
    written = tables(results, plan=PLAN, command="python x")
    rows = [line for line in written.splitlines() if line.startswith("| scale ")]
    assert len(rows) == 2 * len(SCALES)
    assert all(row.count("|") == 14 for row in rows)
    for scale, row in zip(2 * SCALES, rows, strict=True):
        assert row.startswith(f"| scale {scale:g} (temperature {1 / scale:.3g})")
    human = next(line for line in written.splitlines() if line.startswith("| human "))
    assert human.endswith("| 1.500 [1.490, 1.510] | 1.510 [1.500, 1.520] | 1.4000 |")
    columns = snippets(results[0], PLAN.prompt).splitlines()
    assert columns[0].split("  ")[0] == "scale 0.5" and "scale 1.5" in columns[0]
    assert columns[2].startswith("the isleand the sea, and the sea was")


def test_the_settings_have_the_textbooks_scales_and_as_many_of_each_truncation() -> None:
    scales = SETTINGS["scales"]
    assert [setting.varied for setting in scales] == ["scale"] * 11
    assert {0.5, 1.0, 2.0} < {setting.scale for setting in scales}
    policies = SETTINGS["policies"]
    assert policies[:11] == scales
    names = [setting.varied for setting in policies]
    assert {name: names.count(name) for name in names} == dict.fromkeys(Setting._fields[1:], 11)
    assert len({setting.name for setting in policies}) == len(policies)
    for setting in policies:
        changed = {
            name
            for name in Setting._fields[1:]
            if getattr(setting, name) != getattr(UNCHANGED, name)
        }
        assert changed <= {setting.varied}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"samples": 3}, "samples=3 is not allowed: it must lie in .4, "),
        ({"characters": 0}, "characters=0 is not allowed"),
        ({"seed": -1}, "seed=-1 is not allowed"),
    ],
)
def test_plans_out_of_range(changes: dict[str, int], says: str) -> None:
    check_plan(SamplePlan())
    with pytest.raises(CharlmError, match=says):
        check_plan(SamplePlan()._replace(**changes))


def test_what_is_set_for_all_settings_is_named() -> None:
    settings = truncated(SETTINGS["scales"], top_k=3, top_p=None, min_p=0.1)
    assert settings[5].name == "scale 1 (temperature 1), top_k 3, min_p 0.1"
    with pytest.raises(CharlmError, match="--top_k is varied by these settings: leave it out"):
        truncated(SETTINGS["policies"], top_k=3)
    run = _run_results()
    texts = [text._replace(setting=text.setting._replace(top_k=3)) for text in run.texts[:4]]
    lines = _lines(run._replace(texts=texts))
    assert any("scales: scale 1.5 (temperature 0.667), top_k 3, 0.300" in line for line in lines)
    (row,) = (line for line in lines if line.startswith("| scale 1 "))
    assert row.endswith("|  |")  # the held-out loss is that without a truncation


FLAGS = ["--samples=4", "--characters=40", "--prompt=abca", "--settings=policies"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned something of a text with chance in it, with two checkpoints."""
    changes = {
        "data.corpus": "synthetic:reach=2,symbols=4,copy=0.6,characters=3000,seed=1",
        "optimizer.learning_rate": 0.05,
        "train.epochs": 6,
        "split.valid_fraction": 0.4,
    }
    folder = tmp_path_factory.mktemp("trained") / "tiny"
    train_and_evaluate(make_tiny_config(**changes), folder)
    return folder


FEW = [
    *(Setting("scale", scale=scale) for scale in SCALES),
    Setting("top_k", top_k=1),
    Setting("top_p", top_p=0.9),
    Setting("min_p", min_p=0.3),
]


@pytest.mark.exhaustive
def test_the_whole_study_of_two_checkpoints(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(SETTINGS, "policies", FEW)
    steps = Checkpoints(Workdir(trained).checkpoints).steps()
    workdirs = [f"--workdir={trained}@{step}" for step in steps]
    command = [*workdirs, *FLAGS, f"--out={tmp_path / 'out'}"]
    assert main(command) == 0
    assert f"## tiny, checkpoint {steps[-1]}" in capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    drawn = json.loads((tmp_path / "out" / "samples.json").read_text(encoding="utf-8"))
    assert len(steps) > 1
    for step, found, texts in zip(steps, results["runs"], drawn.values(), strict=True):
        own = load_run(trained, checkpoint=step)
        evaluation, _ = own.evaluate(Stream())
        assert found["held_out"]["loss"]["mean"] == pytest.approx(evaluation.loss_nats, abs=1e-5)
        draw = functools.partial(own.sample, "abca", characters=40, samples=4, seed=0)
        for name, want in {
            "scale 1.5 (temperature 0.667)": draw(scales=[1.5]),
            "top_k 1": draw(scales=[1.0], top_k=1),
            "top_p 0.9": draw(scales=[1.0], top_p=0.9),
            "min_p 0.3": draw(scales=[1.0], min_p=0.3),
        }.items():
            assert texts[name] == [
                "".join(chunk.text for chunk in chunks) for chunks in zip(*want, strict=True)
            ]
        assert len({*map(tuple, texts.values())}) == len(texts)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("tables.md", "results.json", "samples.json"),
        *("scale_factor.png", "reliability.png", "entropy_by_place.png"),
    }


def _written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_command_may_write_again_and_another_may_not(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def write(results: object, path: Path, **about: str) -> None:
        path.write_text("a figure")

    monkeypatch.setattr(study, "measure_runs", lambda *_, **__: [_run_results()])
    for save in ("save_picture", "save_reliability", "save_entropy_by_place"):
        monkeypatch.setattr(study, save, write)
    out = tmp_path / "out"
    command = [f"--workdir={trained}", *FLAGS[:3], f"--out={out}"]
    assert main(command) == 0
    (out / "index.md").write_text("# My page\n")
    before = _written(out)
    capsys.readouterr()
    assert main([*command, "--seed=1"]) == 2
    says = capsys.readouterr().err
    assert says.count("\n") == 1 and "results.json is from another command (python -m" in says
    assert _written(out) == before
    assert main(command) == 0
    assert _written(out) == before
    (out / "tables.md").write_text("# My tables\n")
    assert main(command) == 2
    assert "tables.md is not from this study" in capsys.readouterr().err
    assert (out / "tables.md").read_text() == "# My tables\n"


def _losses_and_entropies(logits_NV: np.ndarray, ids_N: np.ndarray) -> tuple[np.ndarray, ...]:
    log_p_NV = log_softmax(logits_NV, axis=1)
    return -log_p_NV[np.arange(len(ids_N)), ids_N], -(np.exp(log_p_NV) * log_p_NV).sum(axis=1)


def test_the_numbers_are_those_of_the_logits(trained: Path) -> None:
    run = load_run(trained)
    plan = SamplePlan("abca", 4, 40, 0)
    human = build_human_text(run, plan, "valid")
    found = measure_run("tiny", run, plan, FEW, human, split="valid")

    def logits_of(text: str) -> tuple[np.ndarray, np.ndarray]:
        """Of all characters but the first."""
        ids_T = run.vocabulary.encode(text).astype(np.int32)
        state = run.model.initial_state(1, 8)
        logits_BTV, _ = jax.jit(run.model.apply)(run.params, jnp.asarray(ids_T[None, :-1]), state)
        return np.asarray(logits_BTV[0], np.float64), ids_T[1:]

    entropy_AS = []
    for text in [*found.of("scale"), found.human]:
        is_human = text is found.human
        before = human.before if is_human else ["abca"] * 4
        read = [logits_of(a + b) for a, b in zip(before, text.samples, strict=True)]
        own = [(logits_NV[3:], ids_N[3:]) for logits_NV, ids_N in read]
        surprisals = [_losses_and_entropies(*pair)[0].mean() for pair in own]
        entropies = [_losses_and_entropies(text.setting.scale * x, ids)[1].mean() for x, ids in own]
        assert text.surprisal.mean == pytest.approx(np.mean(surprisals), abs=1e-4)
        assert text.entropy.mean == pytest.approx(np.mean(entropies), abs=1e-4)
        by_place = [found.mean for found in text.entropy_by_place(10)]
        assert len(by_place) == 4 and np.mean(by_place) == pytest.approx(text.entropy.mean)
        entropy_AS += [] if is_human else [entropies]

    dataset = run.dataset()
    (part,) = dataset.part("valid")
    logits_NV, ids_N = logits_of(dataset.corpus.text[part.start - 1 : part.stop])

    def loss_at(scale: float) -> float:
        return float(_losses_and_entropies(scale * logits_NV, ids_N)[0].mean())

    least = minimize_scalar(loss_at, bounds=(0.3, 3.0), method="bounded", options={"xatol": 1e-6})
    held_out = found.held_out
    assert held_out.calibrated.mean == pytest.approx(least.x, rel=1e-3)
    assert held_out.least_loss.mean == pytest.approx(least.fun, abs=2e-6)
    for scale in (0.21, 0.5, 1.0, 1.03, 2.0, 4.9):
        assert held_out.loss_at(scale) == pytest.approx(loss_at(scale), abs=1e-5)
    least_N, _ = _losses_and_entropies(least.x * logits_NV, ids_N)
    expected = zero_crossing(
        np.array([0.5, 1.0, 1.5, 2.0]),
        np.array(entropy_AS).T - least.fun,
        block=1,
        others_M=least_N,
    )
    assert found.even == pytest.approx(expected, abs=1e-3)


def test_human_text_is_held_out_and_what_stands_before_it_too(
    trained: Path, text_file: Path, tmp_path: Path
) -> None:
    names = ["".join(pair) for pair in itertools.product("abcdefgh", repeat=2)]
    text = " ".join(f"{kind}{name}" for kind in "tv" for name in names for _ in range(20))
    text_file.write_text(text, encoding="utf-8")
    changes = {"data.corpus": str(text_file), "split.valid_fraction": 0.5, "train.max_steps": 1}
    train_and_evaluate(make_tiny_config(**changes), tmp_path / "run")
    run = load_run(tmp_path / "run")
    human = build_human_text(run, SamplePlan("tab", 6, 50, 0), "valid")
    (part,) = run.dataset().part("valid")
    held_out = text[part.start : part.stop]
    for before, sample in zip(human.before, human.judge.others, strict=True):
        assert len(before) == 3 and len(sample) == 50 and before + sample in held_out
    assert all(sample in held_out for sample in human.judge.reference)
    assert {word[0] for word in human.judge.words} == {"t"}
    found = human.judge.human.word_validity
    assert found is not None and found.mean == 0


def test_the_star_is_where_human_text_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(pictures, "save_figure", lambda figure, path: figures.append(figure))
    found = _run_results()
    pictures.save_picture([found], tmp_path / "x.png", about="")
    left = figures[0].axes[0]
    stars = [line for line in left.lines if line.get_marker() == "*"]
    human = found.human.judgement
    assert human.word_validity is not None
    (star,) = stars
    xs, ys = star.get_data()
    assert (xs[0], ys[0]) == (human.distinct_6grams.mean, human.word_validity.mean)
    assert left.get_xlabel().startswith("diversity") and left.get_ylabel().startswith("validity")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--workdir=nowhere"], "nowhere"),
        (["--workdir=RUN", "--temperature=2"], "--temperature=2"),
        (["--workdir=RUN", "--split=test"], "test"),
        (["--workdir=RUN", "--samples=1000"], "has room for"),
        (["--workdir=RUN", "--samples=3"], "samples=3 is not allowed"),
        (["--workdir=RUN@7"], "7"),
        (["--workdir=RUN", "--settings=x"], "--settings"),
        (["--workdir=RUN", "--settings=policies", "--top_p=0.5"], "--top_p is varied by these"),
        (["--workdir=RUN", "--out=docs/studies/sequence_length"], "is not from this study"),
        (["--workdir=RUN", "--out=OTHERS"], "OTHERS/results.json is not from this study"),
        (["--workdir=RUN", "--out=OTHERS/results.json"], "is not a folder: choose another"),
        (["--workdir=RUN", "--out="], "--out is empty"),
        (["--workdir=RUN", "--split=train"], "argument --split: invalid choice: 'train'"),
        (["--workdir=RUN", "--top_p=1.5"], "top_p=1.5 is not allowed"),
        (["--workdir=RUN", "--top_k=-1"], "top_k=-1 is not allowed"),
        (["--workdir=RUN", "--prompt=abx"], "character 'x' (U+0078) outside the model's"),
        (["--workdir=RUN", "--prompt="], "--prompt is empty"),
        (["--workdir=RUN", "--workdir=RUN@best"], "a run is given twice"),
    ],
    ids=[
        *("run", "flag", "split", "much", "little", "checkpoint", "settings", "varied", "page"),
        *("results", "file", "empty", "train", "top_p", "top_k", "prompt", "no-prompt", "twice"),
    ],
)
def test_mistakes_are_told_in_a_line(
    trained: Path,
    flags: list[str],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "OTHERS").mkdir()
    (tmp_path / "OTHERS" / "results.json").write_text("mine")
    places = {"RUN": str(trained), "OTHERS": str(tmp_path / "OTHERS")}
    typed = [functools.reduce(lambda text, x: text.replace(*x), places.items(), f) for f in flags]
    try:
        status = main(typed)
    except SystemExit as stop:
        status = int(str(stop.code))
    printed = capsys.readouterr().err
    assert status == 2 and says in printed.splitlines()[-1]
    assert len(printed.splitlines()) == 1
    assert (tmp_path / "OTHERS" / "results.json").read_text() == "mine"


def test_the_published_page_shows_all_figures_and_links_to_the_tables() -> None:
    folder = ROOT / "docs" / "studies" / "scale_factor"
    assert {path.name for path in folder.iterdir()} == {"index.md", "tables.md", *FIGURES}
    page = (folder / "index.md").read_text(encoding="utf-8")
    assert all(f"({name})" in page for name in ["tables.md", *FIGURES])
    published = (folder / "tables.md").read_text(encoding="utf-8")
    (command,) = (line for line in published.splitlines() if line.startswith("    python"))
    assert published.startswith(f"{TITLE}\n\n{command}\n") and f"\n{command}\n" in page
    written = tables([_run_results()], plan=PLAN, command="python x").splitlines()
    heads = {line for line in written if line.startswith(("| run ", "| setting "))}
    assert len(heads) == 4 and heads < {*published.splitlines()}
