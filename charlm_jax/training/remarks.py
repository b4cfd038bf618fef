"""Remarks on a run: lines about what its user may not expect, and how it is trained further."""

import math
from collections.abc import Iterator

from charlm_jax.config.loading import ConfigSource, split_override
from charlm_jax.config.schema import Config
from charlm_jax.core.trees import count_parameters
from charlm_jax.core.types import Params
from charlm_jax.data import splits
from charlm_jax.data.corpora import is_registered
from charlm_jax.data.splits import size
from charlm_jax.models.mixers import external_sources
from charlm_jax.models.unread_fields import unread_fields
from charlm_jax.storage.checkpoint import Checkpoints
from charlm_jax.storage.compatibility import division
from charlm_jax.storage.mixer_sources import recorded_mixers, source_changes
from charlm_jax.storage.open_run import FollowedRun, OpenRun
from charlm_jax.storage.sessions import sessions_until
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.environment import differences, environment, lacks_bfloat16_units
from charlm_jax.training.loop_state import LoopState
from charlm_jax.training.trainer import Trainer

_MOST_PARAMETERS_PER_CHARACTER = 10  # of a text that is not too small for its model


def on_overrides(config: Config, source: ConfigSource | None) -> Iterator[str]:
    """Yield a remark on every override of a field that nothing reads."""
    counts = ", counts" * bool(config.split.counts)
    reasons = dict.fromkeys(unread_fields(config.model), "no part of this model reads it")
    for name in splits.unread_fields(config.split.kind, has_counts=bool(counts)):
        reasons[f"split.{name}"] = f"config.split.kind={config.split.kind}{counts} does not read it"
    if is_registered(config.data.corpus):
        reasons["data.encoding"] = "this corpus has its own"
    overrides = (*source.point, *source.overrides) if source is not None else ()
    for override in overrides:
        if reason := reasons.get(split_override(override)[0]):
            yield f"config.{override} has no effect: {reason}"


def on_changes_of_done_run(config: Config, recorded: Config, *, is_recorded: bool) -> Iterator[str]:
    """Yield a remark on every field that was changed after the end of a run.

    Args:
      config: requested config.
      recorded: config that the run was trained with.
      is_recorded: whether the run records the requested config all the same.
    """
    effect = "is recorded, but trains no further" if is_recorded else "changes nothing"
    before = recorded.flatten()
    for field, value in config.flatten().items():
        if value != before[field]:
            yield f"config.{field}={value} {effect}: the run is done"


def on_start(
    trainer: Trainer, run: OpenRun | FollowedRun, loop_state: LoopState, params: Params
) -> Iterator[str]:
    """Yield the remarks on a run that is about to train."""
    model = trainer.config.model
    if model.precision == "bfloat16" and lacks_bfloat16_units():
        yield "this processor has no bfloat16 units: config.model.precision=float32 is faster"
    if watched := describe_watched(trainer):
        most = size(trainer.dataset.thinned_part("valid"))
        all_ = "all" if most == size(trainer.dataset.part("valid")) else f"{most:,}"
        yield f"held-out losses are {watched}; charlm evaluate scores {all_}"
    if not loop_state.step:
        yield from _on_small_text(trainer, count_parameters(params))
        return
    yield f"resuming from step {loop_state.step} of {trainer.total_steps}"
    sessions = sessions_until(run.facts, loop_state.step)
    last = sessions[-1] if sessions else {"environment": {}}
    divided = division(trainer.config)
    divided_before = last.get("division", division(run.recorded_config or trainer.config))
    for change in [
        *differences(last["environment"], environment()),
        *differences(divided_before, divided),
    ]:
        yield f"may not be bit-for-bit equal to an uninterrupted run: {change}"
    for change in source_changes(recorded_mixers(run.workdir, model), external_sources(model)):
        yield f"may not be equal to an uninterrupted run: {change}"


def _on_small_text(trainer: Trainer, parameters: int) -> Iterator[str]:
    """Yield a warning if the model will memorize its text."""
    characters = size(trainer.dataset.part("train"))
    if parameters > _MOST_PARAMETERS_PER_CHARACTER * characters:
        held_out = size(trainer.dataset.parts.get("valid", ()))
        yield (
            f"a small text for this model: {characters:,} characters to train on and {held_out:,} "
            f"held out for {parameters:,} parameters; expect the model to memorize it, use more "
            f"text or lower config.model.hidden_size"
        )


def on_end(trainer: Trainer, loop_state: LoopState) -> Iterator[str]:
    """Yield a warning if the run learnt nothing."""
    best, symbols = loop_state.best_loss_nats, len(trainer.dataset.vocabulary)
    if best is not None and best >= math.log(symbols):
        yield (
            f"the best held-out loss, {best:.4f} nats, is not below that of guessing evenly among "
            f"{symbols} symbols, {math.log(symbols):.4f}: lower config.optimizer.learning_rate, or "
            f"train longer"
        )


def describe_watched(trainer: Trainer) -> str:
    """Return of which characters the held-out losses are; empty if of all."""
    all_characters, watched = size(trainer.dataset.parts.get("valid", ())), size(trainer.watched)
    if watched == all_characters:
        return ""
    return f"of {watched:,} of the {all_characters:,} held-out characters, evenly spread"


def describe_extension(trainer: Trainer, workdir: Workdir, *, stopped_early: bool) -> str:
    """Return how a run that has ended is trained further."""
    train, rule, total = trainer.config.train, trainer.config.optimizer, trainer.total_steps
    if stopped_early:
        return "raise config.train.patience to train further"
    if rule.schedule == "constant":
        limits = {"epochs": train.epochs * trainer.steps_per_epoch, "max_steps": train.max_steps}
        fields = [f"config.train.{name}" for name, steps in limits.items() if steps == total]
        return f"raise {' and '.join(fields)} to train further"
    ways = f"--init_from={workdir.path} starts another run from its weights"
    if rule.schedule == "wsd":
        saved = Checkpoints(workdir.checkpoints).steps()
        if saved and saved[0] <= rule.stable_steps(total):
            start = "a longer one from a checkpoint before the decay"
            ways += f", --branch_from={workdir.path} {start}"
        else:
            ways += "; config.train.keep keeps checkpoints before the decay, for --branch_from"
    return f"its learning rate has decayed ({rule.schedule}): {ways}"
