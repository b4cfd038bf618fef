"""Comparison of runs and baselines on the same characters, under one protocol.

Runs that differ only by their seed form one group. Everything is computed from per-character
losses, which are saved in the folder of every run.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from charlm_jax.comparison.grouping import group_runs
from charlm_jax.comparison.run_facts import is_unfinished
from charlm_jax.core.caller_warnings import warn_caller
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.html_table import html_table
from charlm_jax.core.json_files import to_jsonable
from charlm_jax.core.progress import Report, report_nothing
from charlm_jax.core.trees import count_parameters
from charlm_jax.core.types import bits
from charlm_jax.data.dataset import Dataset
from charlm_jax.data.download import Progress
from charlm_jax.data.splits import size
from charlm_jax.evaluation.baselines import (
    MOST_COMPRESSED,
    compressed_bits_per_char,
    uniform_nll,
    unigram_nll,
)
from charlm_jax.evaluation.bootstrap import (
    Difference,
    Interval,
    difference,
    mean_interval,
    std_over_seeds,
)
from charlm_jax.evaluation.context_limits import check_context_is_used
from charlm_jax.evaluation.ngram import last_characters, tuned_ngram
from charlm_jax.evaluation.protocol import EvalProtocol, Sliding, Stream, Window, all_positions
from charlm_jax.evaluation.results import Evaluation
from charlm_jax.inference.run import Run, Runs, open_runs
from charlm_jax.storage.workdir import Workdir

_LONGEST_ORDER = 12  # of the n-gram; on a megabyte of prose, 9 is best


class RunGroup(NamedTuple):
    """Runs that differ only by their seed.

    Attributes:
      name: settings in which the group differs from the others.
      runs: one run per seed.
      evaluations: the evaluation of each run.
      nll_SN: their losses in nats, a row per run.
      unfinished_seeds: seeds of the runs whose training had not ended when they were scored.
    """

    name: str
    runs: Sequence[Run]
    evaluations: Sequence[Evaluation]
    nll_SN: np.ndarray
    unfinished_seeds: tuple[int, ...]

    @property
    def parameters(self) -> int:
        """Number of parameters of the model."""
        return count_parameters(self.runs[0].params)


class GroupResult(NamedTuple):
    """Results of a run group.

    Attributes:
      name: name of the group.
      seeds: seeds of its runs.
      parameters: number of parameters of its model.
      loss: mean loss in nats per character, over runs and blocks of text.
      bits_per_char: the mean in bits.
      spread: standard deviation over the runs' means; None for one run.
      difference: loss minus that of the first group; None for the first.
      unfinished_seeds: those of the seeds whose runs are not finished.
    """

    name: str
    seeds: tuple[int, ...]
    parameters: int
    loss: Interval
    bits_per_char: float
    spread: float | None
    difference: Difference | None
    unfinished_seeds: tuple[int, ...]


BaselineKind = Literal["uniform", "unigram", "ngram", "compressor"]


class Baseline(NamedTuple):
    """Loss of a simple predictor on the same characters.

    Attributes:
      name: name of the predictor.
      kind: kind of the predictor.
      loss: mean loss in nats per character; None for a compressor, which has no per-character
        losses.
      bits_per_char: the mean in bits.
    """

    name: str
    kind: BaselineKind
    loss: Interval | None
    bits_per_char: float


class Comparison(NamedTuple):
    """Run groups under one protocol.

    Attributes:
      groups: the groups, in the order in which their first runs were named.
      baselines: simple predictors on the same characters.
    """

    groups: Sequence[RunGroup]
    baselines: Sequence[Baseline]

    @property
    def unit(self) -> str:
        """Unit of the text, `characters` or `bytes`: runs of different units are refused."""
        return self.groups[0].runs[0].config.data.unit

    @property
    def rules(self) -> list[str]:
        """Descriptions of the protocol; several if the models keep different contexts."""
        evaluations = (evaluation for group in self.groups for evaluation in group.evaluations)
        return [*dict.fromkeys(evaluation.protocol_description for evaluation in evaluations)]

    def rows(self) -> list[GroupResult]:
        """Return the results of each group."""
        first = self.groups[0]
        block = first.evaluations[0].block
        return [
            GroupResult(
                name=group.name,
                seeds=tuple(run.config.seed for run in group.runs),
                parameters=group.parameters,
                loss=mean_interval(group.nll_SN, block=block),
                bits_per_char=bits(float(np.mean(group.nll_SN, dtype=np.float64))),
                spread=std_over_seeds(group.nll_SN),
                difference=None
                if group is first
                else difference(group.nll_SN, first.nll_SN, block=block),
                unfinished_seeds=group.unfinished_seeds,
            )
            for group in self.groups
        ]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the results as text: headings, and a row per group and baseline."""
        rows = self.rows()
        columns = ["group", "seeds", "parameters", "nats", "95 % interval", "bits", "spread"]
        groups = [
            [
                row.name,
                str(len(row.seeds)),
                f"{row.parameters:,}",
                f"{row.loss.mean:.4f}",
                row.loss.describe_ends(),
                f"{row.bits_per_char:.4f}",
                "" if row.spread is None else f"{row.spread:.4f}",
                "" if row.difference is None else row.difference.describe(),
            ]
            for row in rows
        ]
        baselines = [
            [
                baseline.name,
                "",
                "",
                f"{baseline.bits_per_char * math.log(2):.4f}",
                "" if baseline.loss is None else baseline.loss.describe_ends(),
                f"{baseline.bits_per_char:.4f}",
                "",
                "",
            ]
            for baseline in self.baselines
        ]
        return [*columns, f"minus {rows[0].name}"], [*groups, *baselines]

    def describe(self) -> str:
        """Describe what was scored, as a caption of `table`."""
        evaluation = self.groups[0].evaluations[0]
        key = evaluation.key
        note = ""
        if self.baselines:
            note = f" {describe_baselines(key.split, key.protocol.mode, self.unit)}"
        return (
            f"{key.split}, {evaluation.characters:,} {self.unit}, "
            f"{'; '.join(self.rules)}. "
            f"Intervals are over blocks of {evaluation.block_characters:,} {self.unit}, and over "
            f"seeds if there are several; spread is the standard deviation over seeds."
            f"{note}"
            f"{' Losses are per byte.' * (self.unit == 'bytes')}"
            f"{_describe_unfinished(self.groups)}"
        )

    def __repr__(self) -> str:
        groups, baselines = ([x.name for x in part] for part in self)
        return f"{type(self).__name__}(groups={groups}, baselines={baselines})"

    def _repr_html_(self) -> str:
        columns, rows = self.table()
        return html_table(rows, columns=columns, caption=self.describe())


def compare(
    runs: Runs,
    protocol: EvalProtocol | None = None,
    *,
    split: str = "valid",
    baselines: bool = True,
    progress: Progress | None = None,
    report: Report = report_nothing,
) -> Comparison:
    """Score runs on the same characters, or read the losses saved before.

    A run that is not finished is scored at its checkpoint, with a warning.

    Args:
      runs: runs of one text, vocabulary and split, or folders of such runs.
      protocol: evaluation protocol; if None, windows of the length that all runs validate with. The
        context of a stream applies only to runs with attention.
      split: `valid`, `test` or `train`.
      baselines: whether to score simple predictors too.
      progress: callback for the progress of a download of the text.
      report: callback for the progress of the computation.

    Raises:
      CharlmError: there is no run, a run is given twice, its run.json is damaged, or the runs
        differ in text, split or context.
    """
    runs = open_runs(runs)
    if not runs:
        raise CharlmError("no runs to compare: give at least one run")
    check_same_text(runs)
    if protocol is None:
        protocol = Window(shared_context(runs))
    if isinstance(protocol, Stream) and not any(run.model.keeps_positions for run in runs):
        check_context_is_used(runs[0].model, protocol.mode, protocol.context)
    if protocol == Stream():
        shared_context([run for run in runs if run.model.keeps_positions])
    grouped = group_runs(runs)
    unfinished = _find_unfinished(runs)
    groups = []
    for name, group in grouped.items():
        scored = []
        for run in group:
            ignores_context = isinstance(protocol, Stream) and not run.model.keeps_positions
            own = Stream() if ignores_context else protocol
            evaluation = run.evaluate(
                own, split=split, cache=True, progress=progress, report=report
            )
            scored.append(evaluation)
        evaluations, losses = zip(*scored, strict=True)
        seeds = tuple(run.config.seed for run in group if run.workdir in unfinished)
        groups.append(RunGroup(name, group, evaluations, np.stack(losses), seeds))
    if not baselines:
        return Comparison(groups, [])
    dataset = runs[0].dataset(progress)
    return Comparison(groups, find_baselines(dataset, groups[0].evaluations[0], report))


def _find_unfinished(runs: Sequence[Run]) -> set[Path]:
    """Return the folders of the runs that are not finished, with a warning for each."""
    folders = set()
    for run in runs:
        workdir = Workdir(run.workdir)
        workdir.warn_of_lost_facts()
        if is_unfinished(workdir.read_facts()):
            folders.add(run.workdir)
            warn_caller(f"{run.workdir} is not finished: it is scored at {run.checkpoint_label}")
    return folders


def find_baselines(
    dataset: Dataset, evaluation: Evaluation, report: Report = report_nothing
) -> list[Baseline]:
    """Return the losses of simple predictors on the characters of an evaluation.

    All are fitted to the training part, even if the evaluation is of the training part itself.
    Under `Window` and `Sliding` an n-gram reads no further back than a model may; under `Stream` it
    may read further than attention keeps. Compressors are primed with the training part and
    compress the whole part, even if `Sliding` scores only some of it, since they have no
    per-character losses. Of a longer training part, the n-gram counts the last `MOST_COUNTED`
    characters, and compressors read the last `MOST_COMPRESSED`, which their names say. A long part
    is thinned, as for the evaluation.
    """
    protocol, split = evaluation.key.protocol, evaluation.key.split
    part = dataset.thinned_part(split)
    scored = dataset.thinned_part(split, read_before=protocol.read_before)
    train, read = dataset.part("train"), protocol.read_stretches(part)
    symbols, ids_N = len(dataset.vocabulary), dataset.ids_N
    counted = last_characters(train)
    ngram = tuned_ngram(
        ids_N, counted, symbols=symbols, orders=_ngram_orders(protocol), report=report
    )
    method = "Kneser-Ney"
    if size(counted) < size(train):
        method += f", of the last {size(counted):,} {dataset.vocabulary.unit}"
    chosen_N = np.searchsorted(all_positions(part), protocol.positions(scored))

    def baseline(name: str, kind: BaselineKind, all_nll_N: np.ndarray) -> Baseline:
        nll_N = all_nll_N[chosen_N]
        loss = mean_interval(nll_N[None], block=evaluation.block)
        return Baseline(name, kind, loss, bits(float(nll_N.mean())))

    baselines = [
        baseline("uniform", "uniform", uniform_nll(ids_N, read, symbols)),
        baseline("unigram", "unigram", unigram_nll(ids_N, train, read, symbols)),
        baseline(f"{ngram.order}-gram ({method})", "ngram", ngram.nll(ids_N, read)),
    ]
    report("compressing", 0)
    primed = last_characters(train, MOST_COMPRESSED)
    texts = ("".join(dataset.corpus.text[x.start : x.stop] for x in p) for p in (primed, read))
    encoding = "latin-1" if dataset.vocabulary.unit == "bytes" else "utf-8"
    compressed = compressed_bits_per_char(*texts, encoding=encoding)
    after = ""
    if size(primed) < size(train):
        after = f" (after the last {size(primed):,} {dataset.vocabulary.unit})"
    return baselines + [
        Baseline(f"{name}{after}", "compressor", None, x) for name, x in compressed.items()
    ]


def describe_baselines(split: str, mode: str, unit: str) -> str:
    """Return a note on how the baselines were computed, for readers of the results."""
    note = f"Uniform, unigram and n-gram are scored on the same {unit} with the same protocol; "
    note += "compressors are primed with the training part"
    note += " and compress the whole scored part." if mode == "sliding" else "."
    if split == "train":
        note += " All except uniform are fitted to the text that they are scored on."
    return note


def _describe_unfinished(groups: Sequence[RunGroup]) -> str:
    """Return a sentence on the runs that are not finished, to follow others; "" if all are."""
    seeds = [
        f"seed{'s' if len(group.unfinished_seeds) > 1 else ''} "
        f"{', '.join(map(str, group.unfinished_seeds))} of {group.name}"
        for group in groups
        if group.unfinished_seeds
    ]
    return f" Not finished: {'; '.join(seeds)}." if seeds else ""


def _ngram_orders(protocol: EvalProtocol) -> range:
    """Return the n-gram orders that a protocol's context length allows."""
    longest = _LONGEST_ORDER
    if isinstance(protocol, Window | Sliding):
        longest = min(longest, protocol.context + 1)
    return range(1, longest + 1)


def check_same_text(runs: Sequence[Run]) -> None:
    """Check that runs have the same text, vocabulary and split.

    Raises:
      CharlmError: two runs differ.
    """
    prints = [Workdir(run.workdir).read_fingerprint() for run in runs]
    for run, fingerprint in zip(runs, prints, strict=True):
        if fingerprint != prints[0]:
            raise CharlmError(
                f"{run.workdir} and {runs[0].workdir} cannot be compared: "
                f"{_difference(run, runs[0])}; losses are compared on the same held-out characters "
                f"among the same symbols: train both with the same config.data and config.split"
            )


def _difference(run: Run, other: Run) -> str:
    """Return in which respect two runs have different texts, in words."""
    here, there = run.config.flatten(), other.config.flatten()
    names = ("data.corpus", "data.encoding", "data.unit", "split.")
    fields = [field for field in here if field.startswith(names)]
    changes = [
        f"config.{field} is {here[field]!r} and {there[field]!r}"
        for field in fields
        if here[field] != there[field]
    ]
    return "; ".join(changes) or "the content of their text has changed between them"


def shared_context(runs: Sequence[Run]) -> int:
    """Return the context that all runs validate with; 0 if there are no runs.

    Raises:
      CharlmError: two runs validate with different contexts.
    """
    contexts = sorted({run.config.evaluation_context for run in runs})
    if len(contexts) > 1:
        raise CharlmError(
            f"these runs validate with different contexts ({', '.join(map(str, contexts))}): "
            f"give one context for all"
        )
    return contexts[0] if contexts else 0


def comparison_to_json(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON values, with null for infinite ends of intervals.

    `context` is null if that of the groups differs, each of which has its own.
    """
    note = comparison.groups[0].evaluations[0].to_json()
    names = ("characters", "mode", "context", "split", "fingerprint", "targets")
    contexts = [group.evaluations[0].key.protocol.context for group in comparison.groups]
    if len(set(contexts)) > 1:
        note["context"] = None
    groups = [
        {
            **result._asdict(),
            "difference": _difference_to_json(result.difference),
            "context": context,
            "workdirs": [str(run.workdir) for run in group.runs],
            "checkpoints": [run.checkpoint for run in group.runs],
        }
        for result, group, context in zip(
            comparison.rows(), comparison.groups, contexts, strict=True
        )
    ]
    baselines = [
        {
            "name": b.name,
            "loss_nats": b.bits_per_char * math.log(2),
            "bits_per_char": b.bits_per_char,
        }
        for b in comparison.baselines
    ]
    values: dict[str, Any] = to_jsonable(
        {
            **{name: note[name] for name in names},
            "unit": comparison.unit,
            "groups": groups,
            "baselines": baselines,
        }
    )
    return values


def _difference_to_json(difference: Difference | None) -> dict[str, Any] | None:
    if difference is None:
        return None
    return {**difference._asdict(), "is_significant": difference.is_significant}
