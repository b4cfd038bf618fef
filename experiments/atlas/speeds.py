"""Speeds and sizes of models: measured all together, on record once for each preset."""

import statistics
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from charlm_jax.config.loading import load_config
from charlm_jax.config.schema import Config
from charlm_jax.core.prng import root_key
from charlm_jax.data.dataset import load_dataset
from charlm_jax.inference.trained_model import TrainedModel
from charlm_jax.models import build_model
from charlm_jax.sweeps.points import make_point
from charlm_jax.training.throughput import speeds_by_round
from experiments.atlas.arms import SEQUENCE_LENGTH, Preset
from experiments.recorded_training import RecordFolder, settings, settings_difference
from experiments.tuned_arms import TunedArm

ROUNDS = 7
_SAMPLED = 1_000  # characters


class Speed(NamedTuple):
    """Characters per second: median, lowest and highest of the rounds."""

    median: int
    low: int
    high: int

    def describe(self) -> str:
        """Format the speed with three significant digits.

        >>> Speed(12_345, 11_940, 12_612).describe()
        '12,300 [11,900, 12,600]'
        """
        median, low, high = (f"{float(f'{speed:.3g}'):,.0f}" for speed in self)
        return f"{median} [{low}, {high}]"


class ModelSpeeds(NamedTuple):
    """Speeds and size of a model.

    Attributes:
      training: speed of training.
      decoding: speed of sampling one text.
      state_bytes: memory of a text's state; attention keeps T positions.
    """

    training: Speed
    decoding: Speed
    state_bytes: int


def speeds_name(preset: Preset) -> str:
    """Return the name of the record of a preset's speeds."""
    return f"speeds-{preset.name}"


def measure_speeds_once(records: RecordFolder, preset: Preset, names: Collection[str]) -> None:
    """Measure all the named arms in turns, unless each is on record with its settings.

    Args:
      records: folder of the records.
      preset: size of the study.
      names: names of arms.
    """
    if not {*names} <= {*read_speeds(records, preset)}:
        arms = [arm for arm in preset.arms() if arm.name in names]
        found = measure_models({arm.name: load_config(arm.config, arm.fields) for arm in arms})
        values = {arm.name: {**_settings(arm), **found[arm.name]._asdict()} for arm in arms}
        records.write(speeds_name(preset), values)


def read_speeds(records: RecordFolder, preset: Preset) -> dict[str, ModelSpeeds]:
    """Return the speeds on record of the preset's arms, without those of other settings.

    Raises:
      CharlmError: the record is damaged.
    """
    name = speeds_name(preset)
    values = records.read(name) or {}
    try:
        return {
            arm.name: _read(values[arm.name])
            for arm in preset.arms()
            if arm.name in values and settings_difference(values[arm.name], _settings(arm)) is None
        }
    except (TypeError, ValueError) as error:
        raise records.damaged(name) from error


def _settings(arm: TunedArm) -> dict[str, Any]:
    return settings(make_point(arm.name, arm.config, arm.fields))


def _read(values: Mapping[str, Any]) -> ModelSpeeds:
    training, decoding = (Speed(**values[name]) for name in ("training", "decoding"))
    return ModelSpeeds(training, decoding, values["state_bytes"])


def measure_models(
    configs: Mapping[str, Config], *, rounds: int = ROUNDS
) -> dict[str, ModelSpeeds]:
    """Measure speeds and sizes of models, when no other process runs.

    Decoding is measured once for configs of the same model.

    Args:
      configs: configs to train, by any name.
      rounds: number of rounds, in which the models take turns.
    """
    training = speeds_by_round(configs, rounds=rounds, steps=10)
    models = {config.model: _untrained(config) for config in configs.values()}
    decoding: dict[Any, list[float]] = {key: [] for key in models}
    for _ in range(1 + rounds):  # one that compiles precedes them
        for key, model in models.items():
            prompt, start = model.vocabulary.symbols[-1], time.monotonic()
            for _ in model.sample(prompt, characters=_SAMPLED):
                pass
            decoding[key].append(_SAMPLED / (time.monotonic() - start))
    return {
        name: ModelSpeeds(
            _speed(training[name]),
            _speed(decoding[config.model][1:]),
            _state_bytes(models[config.model]),
        )
        for name, config in configs.items()
    }


def _speed(speeds: Sequence[float]) -> Speed:
    return Speed(round(statistics.median(speeds)), round(min(speeds)), round(max(speeds)))


def _untrained(config: Config) -> TrainedModel:
    vocabulary = load_dataset(config).vocabulary
    model = build_model(config.model, len(vocabulary))
    return TrainedModel(config, vocabulary, model, model.init(root_key(config.seed)))


def _state_bytes(model: TrainedModel) -> int:
    state = jax.eval_shape(lambda: model.model.initial_state(1, SEQUENCE_LENGTH))
    return int(sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)))
