"""Data of a report: everything that is read or computed for a page about runs."""

import datetime
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from charlm_jax.comparison.compare import check_same_text, compare
from charlm_jax.comparison.grouping import group_runs
from charlm_jax.comparison.passages import (
    choose_passage,
    first_words,
    passage_nll,
    passage_predictions,
    reads_before,
)
from charlm_jax.comparison.run_facts import (
    RunFacts,
    differing_fields,
    newest_row,
    read_run_facts,
    shared_fields,
)
from charlm_jax.comparison.scores import Scores, find_scores
from charlm_jax.comparison.units import RunUnits, corpus_units
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.progress import Report, report_nothing
from charlm_jax.data.dataset import Dataset
from charlm_jax.data.download import Progress
from charlm_jax.data.splits import size
from charlm_jax.evaluation.protocol import EvalProtocol, Window
from charlm_jax.inference.run import Run
from charlm_jax.sampling.categorical import temperature

SCALES = (0.5, 1.0, 2.0)
SAMPLE_CHARACTERS = 400
SAMPLE_SEED = 0


class GroupFacts(NamedTuple):
    """Facts of runs that differ only by their seed, with the name of their group."""

    name: str
    runs: Sequence[RunFacts]


class Sample(NamedTuple):
    """Text sampled from a run."""

    scale: float
    temperature: float
    text: str


class Heat(NamedTuple):
    """Per-character surprisal of a passage.

    Attributes:
      passage: positions of the passage in the text.
      text: characters of the passage.
      split: part that the passage is from.
      labels: names of the runs that read it, one or two: a group's, with the seed of several.
      nll_RN: their losses in nats, a row per run.
      predictions: for each run, position in the passage -> most probable symbols with their
        probabilities.
      rules: description of what each run read before a character.
    """

    passage: range
    text: str
    split: str
    labels: Sequence[str]
    nll_RN: np.ndarray
    predictions: Sequence[Mapping[int, Sequence[tuple[str, float]]]]
    rules: Sequence[str]


class ReportData(NamedTuple):
    """Everything that a report states.

    Attributes:
      groups: groups in the order in which their first runs were named.
      corpus: name of the text, or its path.
      characters: number of characters of the text.
      unit: `characters` or `bytes`.
      watched_characters: numbers of characters that runs validate on while they train.
      symbols: size of the vocabulary.
      newest: time of the last row of metrics, in UTC; None if there is no row.
      scores: scores of the runs; None if no text is held out.
      differing: fields in which runs differ, with the values of each group.
      shared: fields that have the same value in all runs, with that value.
      prompt: prompt of the samples.
      samples: samples of each group's first run, one at each of `SCALES`, with the same noise.
      heat: surprisal of a passage.
      units: units of the first run that follow properties of the text; None if it has none.
    """

    groups: Sequence[GroupFacts]
    corpus: str
    characters: int
    unit: str
    watched_characters: Sequence[int]
    symbols: int
    newest: datetime.datetime | None
    scores: Scores | None
    differing: Mapping[str, Sequence[str]]
    shared: Mapping[str, str]
    prompt: str
    samples: Sequence[Sequence[Sample]]
    heat: Heat
    units: RunUnits | None


def _watched(run: Run, dataset: Dataset) -> int:
    valid, most = dataset.parts.get("valid", ()), run.config.evaluation.max_characters
    return size(Window(run.config.evaluation_context).spread(valid, most=most))


def gather(
    runs: Sequence[Run],
    protocol: EvalProtocol | None = None,
    *,
    split: str = "valid",
    baselines: bool = True,
    progress: Progress | None = None,
    report: Report = report_nothing,
) -> ReportData:
    """Read, score and sample everything that a report states.

    Args:
      runs: at least one run; all of one text, vocabulary and split.
      protocol: evaluation protocol, see `compare`.
      split: `valid`, `test` or `train`; `valid` is skipped if no text is held out and no protocol
        is given.
      baselines: whether to score simple predictors too.
      progress: callback for the progress of a download of the text.
      report: callback for the progress of the computation.

    Raises:
      CharlmError: there is no run, or the runs cannot be compared (see `compare`).
    """
    if not runs:
        raise CharlmError("no runs to report on: give at least one run")
    dataset = runs[0].dataset(progress)
    scores = None
    if split != "valid" or split in dataset.parts or protocol is not None:
        comparison = compare(
            runs, protocol, split=split, baselines=baselines, progress=progress, report=report
        )
        scores = find_scores(comparison, dataset, report)
        groups = {group.name: group.runs for group in comparison.groups}
    else:
        check_same_text(runs)
        split, groups = "train", dict(group_runs(runs))
    text = dataset.corpus.text
    prompt = first_words(text, dataset.part(split), unit=dataset.corpus.unit)
    prompt = dataset.vocabulary.to_text(prompt)
    name, group = next(iter(groups.items()))
    report("sampling", 0)
    return ReportData(
        groups=[GroupFacts(name, [*map(read_run_facts, group)]) for name, group in groups.items()],
        corpus=dataset.corpus.name,
        characters=dataset.corpus.characters,
        unit=dataset.corpus.unit,
        watched_characters=sorted({_watched(run, dataset) for run in runs}),
        symbols=len(dataset.vocabulary),
        newest=newest_row(runs),
        scores=scores,
        differing=differing_fields([*groups.values()]),
        shared=shared_fields(runs),
        prompt=dataset.vocabulary.shown(prompt),
        samples=[_samples(group[0], prompt) for group in groups.values()],
        heat=_heat(_shown_runs(groups, scores), dataset, split),
        units=corpus_units(group[0], dataset, split, label=_first_label(name, group)),
    )


def _first_label(name: str, group: Sequence[Run]) -> str:
    """Return the name of a group, with the seed of its first run if it has several."""
    return f"{name}, seed {group[0].config.seed}" if len(group) > 1 else name


def _samples(run: Run, prompt: str) -> list[Sample]:
    chunks = run.sample(prompt, characters=SAMPLE_CHARACTERS, scales=SCALES, seed=SAMPLE_SEED)
    texts = ("".join(chunk.text for chunk in text) for text in zip(*chunks, strict=True))
    return [
        Sample(scale, temperature(scale), run.vocabulary.shown(text))
        for scale, text in zip(SCALES, texts, strict=True)
    ]


def _shown_runs(groups: Mapping[str, Sequence[Run]], scores: Scores | None) -> dict[str, Run]:
    """Return the first runs of the first group and of the best other one, by their labels.

    If there is a single group, return its first run and the best other one.
    """
    if len(groups) > 1:
        runs = {_first_label(name, group): group[0] for name, group in groups.items()}
        losses = [] if scores is None else [row.loss.mean for row in scores.rows]
    else:
        ((name, group),) = groups.items()
        runs = (
            {f"seed {run.config.seed}": run for run in group}
            if len(group) > 1
            else {name: group[0]}
        )
        losses = [] if scores is None else list(scores.means[0])
    first, *others = runs
    if losses:
        by_name = dict(zip(runs, losses, strict=True))
        others.sort(key=lambda name: by_name[name])
    return {name: runs[name] for name in [first, *others[:1]]}


def _heat(runs: Mapping[str, Run], dataset: Dataset, split: str) -> Heat:
    text = dataset.corpus.text
    passage = choose_passage(text, dataset.part(split))
    first = dataset.first_position(split)
    return Heat(
        passage=passage,
        text=text[passage.start : passage.stop],
        split=split,
        labels=[*runs],
        nll_RN=np.stack([passage_nll(run, text, passage, first=first) for run in runs.values()]),
        predictions=[passage_predictions(run, text, passage, first=first) for run in runs.values()],
        rules=[reads_before(run, passage, first=first) for run in runs.values()],
    )
