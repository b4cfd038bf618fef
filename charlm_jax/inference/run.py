"""A trained run, picked up again: its model, and what it pays for the text it was trained on."""

import dataclasses
import functools
import math
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax.core.errors import CharlmError
from charlm_jax.data.dataset import Dataset, load_dataset
from charlm_jax.data.download import Progress
from charlm_jax.data.splits import target_positions as scored
from charlm_jax.evaluation.results import Evaluation, read_evaluation, save_evaluation
from charlm_jax.evaluation.scoring import SLIDING_TARGETS, Scorer, mean_score
from charlm_jax.inference.context_limits import check_part
from charlm_jax.inference.trained_model import TrainedModel
from charlm_jax.models import build_model
from charlm_jax.storage.weights import averaged_in_words, read_weights
from charlm_jax.storage.workdir import Workdir

# Runs that differ by their seed alone share a model, and with it what is compiled for it.
_shared_model = functools.lru_cache(maxsize=16)(build_model)


@dataclasses.dataclass(frozen=True)
class Run(TrainedModel):
    """A run's model at one of its checkpoints.

    Attributes:
      config: what it was trained with.
      vocabulary: its symbols.
      model: its functions.
      params: its weights.
      workdir: where it lies.
      checkpoint: the step that the weights are from.
      weights: `raw`, or `average` where they are a moving average.
    """

    workdir: Path
    checkpoint: int
    weights: str

    @property
    def checkpoint_label(self) -> str:
        """Which of its weights these are, in words."""
        return f"checkpoint {self.checkpoint}{averaged_in_words(self.weights)}"

    def evaluate(
        self,
        *,
        split: str = "valid",
        mode: str = "window",
        context: int | None = None,
        targets: int = SLIDING_TARGETS,
        progress: Progress | None = None,
    ) -> tuple[Evaluation, np.ndarray]:
        """Score the characters of a part of the run's own text, under a named rule.

        Args:
          split: `valid`, `test` or `train`.
          mode: `window`, `sliding` or `stream`; `charlm_jax.evaluation.scoring` defines them.
          context: the window's length, the characters read before each target, or the past
            positions that attention keeps; that of the run's own validation if None.
          targets: how many are scored under `sliding`, evenly spread; 0 is all of them.
          progress: told how a download of the text goes.

        Returns:
          The figure, and nll_N in nats, one float32 for each character in the text's order.

        Raises:
          CharlmError: no such part, a text that has changed since, a context that makes no sense.
        """
        score = self._scorer(mode, context, targets)
        dataset = self.dataset(progress)
        wanted = self._evaluation(dataset, split, mode, context, targets)
        return self._figure(dataset, wanted, score)

    def evaluate_once(
        self,
        *,
        split: str = "valid",
        mode: str = "window",
        context: int | None = None,
        targets: int = SLIDING_TARGETS,
        progress: Progress | None = None,
    ) -> tuple[Evaluation, np.ndarray]:
        """What `evaluate` gives: read from the run's folder, or else computed and kept there.

        Where it cannot be kept there is a warning.
        """
        score = self._scorer(mode, context, targets)
        dataset = self.dataset(progress)
        wanted = self._evaluation(dataset, split, mode, context, targets)
        workdir = Workdir(self.workdir)
        found = read_evaluation(workdir, wanted)
        if found is None:
            found = self._figure(dataset, wanted, score)
            try:
                save_evaluation(workdir, *found)
            except CharlmError as error:
                warnings.warn(f"{error}: the losses are not kept", stacklevel=2)
        return found

    def save_evaluation(self, evaluation: Evaluation, nll_N: np.ndarray) -> Path:
        """Keep the per-character losses in the run's folder, with a JSON note beside them."""
        return save_evaluation(Workdir(self.workdir), evaluation, nll_N)

    def dataset(self, progress: Progress | None = None) -> Dataset:
        """The text that the run was trained on, and its parts.

        Raises:
          CharlmError: the text is not there, or has changed since.
        """
        dataset = load_dataset(self.config, progress=progress)
        if dataset.fingerprint != Workdir(self.workdir).read_fingerprint():
            raise CharlmError(
                f"the text of {self.config.data.corpus} has changed since {self.workdir} was "
                f"trained: a figure on it would not be comparable"
            )
        return dataset

    def _figure(
        self, dataset: Dataset, wanted: Evaluation, score: Scorer
    ) -> tuple[Evaluation, np.ndarray]:
        """What is wanted, with the figure, and the losses of which that is the mean."""
        part, context = dataset.part(wanted.split), self._context(wanted.context)
        check_part(self.model, part, mode=wanted.mode, context=context)
        nll_N = score(self.params, jnp.asarray(dataset.ids_N), part)
        return dataclasses.replace(wanted, **mean_score(nll_N)._asdict()), nll_N

    def _evaluation(
        self, dataset: Dataset, split: str, mode: str, context: int | None, targets: int
    ) -> Evaluation:
        """Everything about a figure but the figure."""
        return Evaluation(
            loss_nats=math.nan,
            bits_per_char=math.nan,
            characters=0,
            **self._rule(mode, context),
            split=split,
            fingerprint=dataset.fingerprint,
            checkpoint=self.checkpoint,
            weights=self.weights,
            targets=targets if mode == "sliding" else None,
            split_characters=sum(len(scored(stretch)) for stretch in dataset.part(split)),
        )


def load_run(
    workdir: Path | str, *, checkpoint: str | int = "best", weights: str | None = None
) -> Run:
    """Pick up a run.

    Args:
      workdir: its folder, or an exported model.
      checkpoint: `best` (the latest, where nothing was validated), `latest`, or a step. In place of
        a damaged `latest` the one before is taken, with a warning.
      weights: `raw`, or their moving `average`; the average, where the run kept one, if None.

    Raises:
      CharlmError: no run there, no such checkpoint, or one that is damaged.
    """
    run_dir = Workdir(workdir)
    run_dir.check_readable()
    config, vocabulary = run_dir.read_config(), run_dir.read_vocabulary()
    try:
        model = _shared_model(config.model, len(vocabulary))
    except CharlmError as error:
        raise CharlmError(f"{run_dir.config_file} does not fit: {error}") from error
    like = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    params, step, kind = read_weights(
        run_dir, config, like, checkpoint=str(checkpoint), kind=weights
    )
    return Run(config, vocabulary, model, params, run_dir.path, step, kind)
