"""A trained run, loaded from disk: its model, and its losses on its own text."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import numpy as np

from charlm_jax.config.schema import Config, ModelConfig
from charlm_jax.core.caller_warnings import warn_caller
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.html_table import html_table
from charlm_jax.core.jax_variables import named_variables
from charlm_jax.core.numerics import fixed_numerics
from charlm_jax.core.prng import root_key
from charlm_jax.core.progress import Report, report_nothing
from charlm_jax.core.tree_hash import content_hash
from charlm_jax.core.trees import count_parameters
from charlm_jax.data.dataset import Dataset, load_dataset
from charlm_jax.data.download import Progress
from charlm_jax.data.moved_text import is_gone, likely_places
from charlm_jax.data.splits import target_positions
from charlm_jax.evaluation.context_limits import check_part
from charlm_jax.evaluation.protocol import EvalProtocol
from charlm_jax.evaluation.results import (
    Evaluation,
    EvaluationKey,
    read_evaluation,
    save_evaluation,
)
from charlm_jax.evaluation.scoring import mean_score
from charlm_jax.inference.trained_model import TrainedModel, refuse_non_finite
from charlm_jax.models import LanguageModel, build_model
from charlm_jax.storage.mixer_sources import find_recorded_mixers
from charlm_jax.storage.run_index import run_folders
from charlm_jax.storage.seal import read_rows
from charlm_jax.storage.weights import describe_average, read_weights
from charlm_jax.storage.workdir import Workdir


@functools.lru_cache(maxsize=16)
def _shared_model(model: ModelConfig, vocab_size: int, mixers: tuple[type, ...]) -> LanguageModel:
    """Build a model; runs that differ only in their seed share it, and its compiled functions.

    The key has the classes of mixers outside the package, which a notebook may define again.
    """
    return build_model(model, vocab_size)


@dataclasses.dataclass(frozen=True)
class Run(TrainedModel):
    """A run's model at one of its checkpoints.

    Attributes:
      config: training config.
      vocabulary: symbols of the model.
      model: functions of the model.
      params: weights of the model.
      workdir: folder of the run.
      checkpoint: step of the weights.
      weights: `raw`, or `average` for a moving average.
      corpus: current path of the text; None for the one in the config.
    """

    workdir: Path
    checkpoint: int
    weights: str
    corpus: str | None = None

    @property
    def checkpoint_label(self) -> str:
        """Checkpoint and kind of the weights, in words."""
        return f"checkpoint {self.checkpoint}{describe_average(self.weights)}"

    def __repr__(self) -> str:
        place = f"{str(self.workdir)!r}, checkpoint={self.checkpoint}, weights={self.weights!r}"
        return f"{type(self).__name__}({place})"

    def _repr_html_(self) -> str:
        rows = [
            ["run", str(self.workdir)],
            ["text", self.config.data.corpus],
            ["layers", ", ".join(self.config.model.layers)],
            ["parameters", f"{count_parameters(self.params):,}"],
            ["checkpoint", f"{self.checkpoint:,}"],
            ["weights", self.weights],
        ]
        loss_nats = self.recorded_loss
        if loss_nats is not None:
            loss = f"{loss_nats:.4f} nats per {self.vocabulary.noun}"
            rows.append(["held-out loss in training", loss])
        return html_table(rows)

    @property
    def recorded_loss(self) -> float | None:
        """Validation loss of the checkpoint in the metrics, in nats; None if there is none."""
        try:
            rows = read_rows(Workdir(self.workdir))
        except (CharlmError, OSError):  # a display never fails
            return None
        mark = (self.checkpoint, "valid", self.weights)
        losses = (
            row["loss_nats"] for row in rows if (row["step"], row["split"], row["weights"]) == mark
        )
        return next(losses, None)

    @fixed_numerics()
    def evaluate(
        self,
        protocol: EvalProtocol | None = None,
        *,
        split: str = "valid",
        cache: bool = False,
        progress: Progress | None = None,
        report: Report = report_nothing,
    ) -> tuple[Evaluation, np.ndarray]:
        """Score the characters of a part of the run's own text, of which a long one is thinned.

        Args:
          protocol: evaluation protocol, such as `Stream()`; windows as in validation if None.
          split: `valid`, `test` or `train`.
          cache: whether to reuse losses saved in the run's folder, and to save new ones there; a
            failure to save is a warning.
          progress: callback for the progress of a download of the text.
          report: callback for the progress of scoring.

        Returns:
          The evaluation, and nll_N in nats, one float32 for each scored character in the text's
          order.

        Raises:
          CharlmError: no such part, a text that has changed since, an invalid context, or numbers
            that are not finite.
        """
        protocol = self._resolve(protocol)
        dataset = self.dataset(progress)
        part = dataset.part(split)
        key = EvaluationKey(
            protocol,
            split=split,
            fingerprint=dataset.fingerprint,
            checkpoint=self.checkpoint,
            weights=self.weights,
            weights_hash=content_hash(self.params),
            split_characters=sum(len(target_positions(stretch)) for stretch in part),
        )
        part = dataset.thinned_part(split, read_before=protocol.read_before)
        ids_N = dataset.ids_N[protocol.positions(part)]
        # Exactly 1 if all are ASCII, or bytes.
        characters_per_byte = len(ids_N) / int(self.vocabulary.utf8_lengths_V[ids_N].sum())
        saved = read_evaluation(Workdir(self.workdir), key) if cache else None
        if saved is not None and saved[0].characters == len(ids_N):  # earlier versions did not thin
            evaluation, nll_N = saved
            refuse_non_finite(nll_N, f"the model of {self.workdir}")  # saved by an earlier version
            bits_per_byte = evaluation.bits_per_char * characters_per_byte
            return dataclasses.replace(evaluation, bits_per_byte=bits_per_byte), nll_N
        check_part(self.model, part, protocol)
        nll_N = self._scorer(protocol)(
            self.params,
            dataset.ids_N,
            part,
            advance=functools.partial(report, f"scoring {self.workdir}"),
        )
        refuse_non_finite(nll_N, f"the model of {self.workdir}")
        score = mean_score(nll_N)
        bits_per_byte = score.bits_per_char * characters_per_byte
        evaluation = Evaluation(key, **score._asdict(), bits_per_byte=bits_per_byte)
        if cache:
            try:
                self.save_evaluation(evaluation, nll_N)
            except CharlmError as error:
                warn_caller(f"{error}: the losses are not saved")
        return evaluation, nll_N

    def save_evaluation(self, evaluation: Evaluation, nll_N: np.ndarray) -> Path:
        """Save the per-character losses in the run's folder, with the evaluation as JSON."""
        return save_evaluation(Workdir(self.workdir), evaluation, nll_N)

    def dataset(self, progress: Progress | None = None) -> Dataset:
        """Load the text that the run was trained on, and its parts.

        Raises:
          CharlmError: the text is missing, or has changed since; see `load_text`.
        """
        run_dir = Workdir(self.workdir)
        return load_text(run_dir, self.config, corpus=self.corpus, progress=progress)


def load_text(
    run_dir: Workdir, config: Config, *, corpus: str | None, progress: Progress | None = None
) -> Dataset:
    """Load the text that a run was trained on, wherever it is now.

    The content decides, by the run's fingerprint. If there is no text at the recorded path, one of
    the same name is searched in the current folder and in those above the run's; a warning says
    where it was found.

    Args:
      run_dir: folder of the run.
      config: config of the run.
      corpus: current path of the text; None for the recorded one.
      progress: callback for the progress of a download of the text.

    Raises:
      CharlmError: the text is missing, or has changed since.
    """
    fingerprint, recorded = run_dir.read_fingerprint(), config.data.corpus

    def load(place: str) -> Dataset:
        moved = config.with_paths(corpus=place, init_from=config.train.init_from)
        return load_dataset(moved, progress=progress)

    if corpus is None and is_gone(recorded):
        for place in likely_places(recorded, [Path.cwd(), *run_dir.path.resolve().parents[:3]]):
            with contextlib.suppress(CharlmError):
                dataset = load(place)
                if dataset.fingerprint == fingerprint:
                    warn_caller(
                        f"the text of {run_dir.path} is no longer at {recorded}: the same text "
                        f"is read from {place}",
                    )
                    return dataset
        raise CharlmError(
            f"the text of {run_dir.path} is no longer at {recorded}: name its place with "
            f"--corpus=PATH (in Python, load_run(..., corpus=PATH))"
        )
    dataset = load(recorded if corpus is None else corpus)
    if dataset.fingerprint == fingerprint:
        return dataset
    if corpus is not None:
        raise CharlmError(
            f"{corpus} is not the text that {run_dir.path} was trained on (its text, vocabulary or "
            f"split differs): a loss on it would not be comparable"
        )
    raise CharlmError(
        f"the text of {recorded} has changed since {run_dir.path} was trained: a loss on it would "
        f"not be comparable; if the text of that time is elsewhere, name its place with "
        f"--corpus=PATH (in Python, load_run(..., corpus=PATH))"
    )


@named_variables()
@fixed_numerics()
def load_run(
    workdir: Path | str,
    *,
    checkpoint: str | int = "best",
    weights: str | None = None,
    corpus: str | None = None,
) -> Run:
    """Load a trained run or an exported model.

    Args:
      workdir: folder of the run, or of the exported model.
      checkpoint: `best` (the latest, if nothing was validated), `latest`, or a step. If the latest
        is damaged, `latest` falls back to the one before, with a warning.
      weights: `raw`, or their moving `average`; if None, the average if the run kept one.
      corpus: current path of the run's text, if it has moved; it is read only by what needs the
        text, such as `Run.evaluate`.

    Raises:
      CharlmError: there is no run or no such checkpoint, the checkpoint is damaged, or the model
        has a layer of a module that is not imported, or JAX has no such device as an environment
        variable names.
    """
    run_dir = Workdir(workdir)
    run_dir.check_readable()
    config = run_dir.read_config()
    symbols = run_dir.read_vocabulary()
    mixers = find_recorded_mixers(run_dir, config.model)
    try:
        vocabulary = symbols.with_unit(config.data.unit)
        model = _shared_model(config.model, len(vocabulary), mixers)
    except CharlmError as error:
        raise CharlmError(f"{run_dir.config_file} is not valid: {error}") from error
    like = jax.eval_shape(lambda: model.init(root_key(0)))
    params, step, kind = read_weights(
        run_dir, config, vocabulary, like, checkpoint=str(checkpoint), kind=weights
    )
    return Run(config, vocabulary, model, params, run_dir.path, step, kind, corpus)


Runs = Run | Path | str | Sequence[Run | Path | str]
"""Runs, their folders, or folders that contain runs: one, or several."""


def open_runs(
    runs: Runs, *, checkpoint: str | int = "best", corpus: str | None = None
) -> list[Run]:
    """Return runs as they are, and load those of folders: a run's own, or all runs below it.

    Args:
      runs: one run or folder, or several.
      checkpoint: checkpoint to load, as for `load_run`.
      corpus: path of the runs' text, as for `load_run`.

    Raises:
      CharlmError: a folder has no run, or a run cannot be loaded.
    """
    several = runs if isinstance(runs, Iterable) and not isinstance(runs, str) else [runs]
    found: list[Run | Path] = []
    for one in several:
        if isinstance(one, Run):
            found.append(one)
        elif isinstance(one, (Path, str)):
            found += run_folders(one)
        else:
            raise CharlmError(f"{one!r} is not a run: give a Run or the path of a folder")
    return [
        one if isinstance(one, Run) else load_run(one, checkpoint=checkpoint, corpus=corpus)
        for one in found
    ]
