"""Arms of the study, and the presets that say how large it is.

An arm is a model trained at one length, with its state reset before every sequence or carried from
batch to batch, within one budget. It is run once per seed.
"""

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from experiments.recorded_training import RATE
from experiments.tuned_arms import Effort

BATCH_CHARACTERS = 2_560
WINDOW = 64
LONG_WINDOW = 320
LENGTHS = (5, 10, 20, 40, 80, 160, 320, 640)
LOADERS = {"reset": "crops", "carried": "streams"}  # both read all characters equally often
STATES = tuple(LOADERS)

Schedule = tuple[int, ...]
"""Lengths of equal shares of the training, in order; a fixed length is a schedule of one."""


class Arm(NamedTuple):
    """Training settings of runs that differ only in their seed and learning rate.

    Attributes:
      model: name of a model of the preset.
      lengths: T in equal shares of the training, in characters; one for a fixed length.
      state: `reset` before every sequence, or `carried` from batch to batch.
      budget: `characters` if all arms read equally many, `seconds` if all train equally long.
    """

    model: str
    lengths: Schedule
    state: str
    budget: str = "characters"

    @property
    def length(self) -> int:
        """T at the end of the training, in characters."""
        return self.lengths[-1]

    @property
    def label(self) -> str:
        """Lengths in words.

        >>> Arm("lstm", (10, 160), "reset").label
        '10 then 160'
        """
        return " then ".join(map(str, self.lengths))

    @property
    def name(self) -> str:
        """Name in file names.

        >>> Arm("lstm", (10, 160), "reset").name
        'lstm-T10-160-reset'
        """
        seconds = "-seconds" * (self.budget == "seconds")
        return f"{self.model}-T{'-'.join(map(str, self.lengths))}-{self.state}{seconds}"

    @property
    def tuned(self) -> "Arm":
        """Arm whose learning rate this one has: the fixed last length, at equal characters."""
        return self._replace(lengths=self.lengths[-1:], budget="characters")


class Model(NamedTuple):
    """A model of a preset.

    Attributes:
      config: config name.
      fields: fields of the config to change.
      lengths: T, in characters.
      states: states that it is trained with.
      schedules: schedules of several lengths, trained with reset state.
      is_timed: whether lengths are also compared at equal seconds, with reset state.
      is_repeated: whether arms are trained with every seed; if not, with the first.
      has_attention: whether its layers keep past positions. While it trains, it is then scored in
        windows of at most T, since it need not be able to look further back.
    """

    config: str
    fields: Mapping[str, Any]
    lengths: Schedule = LENGTHS
    states: tuple[str, ...] = STATES
    schedules: tuple[Schedule, ...] = ()
    is_timed: bool = False
    is_repeated: bool = True
    has_attention: bool = False


class Preset(NamedTuple):
    """Size of the study.

    Attributes:
      models: models by name.
      corpus: text, as in `config.data.corpus`.
      effort: effort of each arm; every arm is trained with the first seed.
      watched: characters of the second part that an evaluation of a run scores while it trains.
      patience: a run ends after so many evaluations without a new best; 0 for never.
      repeated: T of the arms at equal characters that are trained with every seed, as schedules
        are; empty for all arms.
      reach: context of the windows for the loss by position, in characters.
      context_reach: longest context for the effective context, in characters.
      context_targets: number of targets for the effective context.
      samples: number of generated texts that are judged, per arm.
      sample_characters: length of each.
      rates: learning rate of every arm that has its own, by name, if they were searched in another
        preset.
    """

    models: Mapping[str, Model]
    corpus: str
    effort: Effort
    watched: int = 500_000
    patience: int = 0
    repeated: Schedule = ()
    reach: int = 1_280
    context_reach: int = 320
    context_targets: int = 1_000
    samples: int = 50
    sample_characters: int = 500
    rates: Mapping[str, float] = MappingProxyType({})

    def arms(self) -> Iterator[Arm]:
        """Yield all arms, those of equal characters first."""
        for name, model in self.models.items():
            for state in model.states:
                yield from (Arm(name, (length,), state) for length in model.lengths)
            yield from (Arm(name, schedule, "reset") for schedule in model.schedules)
        for name, model in self.models.items():
            if model.is_timed:
                for lengths in (*((length,) for length in model.lengths), *model.schedules):
                    yield Arm(name, lengths, "reset", "seconds")

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes on which measurements in the record of the text depend."""
        return {
            name: getattr(self, name)
            for name in (
                "watched",
                "reach",
                "context_reach",
                "context_targets",
                "samples",
                "sample_characters",
            )
        }

    def is_repeated(self, arm: Arm) -> bool:
        """Return whether an arm is trained with every seed."""
        if not self.models[arm.model].is_repeated:
            return False
        if not self.repeated:
            return True
        is_chosen = len(arm.lengths) > 1 or arm.length in self.repeated
        return is_chosen and arm.budget == "characters"

    def watched_context(self, arm: Arm) -> int:
        """Return the window length of the loss that is watched while an arm trains.

        A model whose state is carried hardly knows an empty one: in short windows its loss says
        little of what it has learnt.
        """
        context = LONG_WINDOW if arm.state == "carried" else WINDOW
        return min(context, arm.length) if self.models[arm.model].has_attention else context

    def fields(self, arm: Arm) -> dict[str, Any]:
        """Return the config fields that the study sets, apart from seed, rate and steps."""
        return {
            **self.models[arm.model].fields,
            **({RATE: self.rates[arm.tuned.name]} if self.rates else {}),
            "data.corpus": self.corpus,
            "data.sequence_length": arm.length,
            "data.batch_size": BATCH_CHARACTERS // arm.length,
            "data.loader": LOADERS[arm.state],
            "split.valid_fraction": 0.1,
            "split.test_fraction": 0.1,
            "evaluation.context": self.watched_context(arm),
            "evaluation.max_characters": self.watched,
            "train.epochs": 1_000,  # never reached: `max_steps` ends the run
            "train.patience": self.patience,
        }


def whole_batches(characters: float) -> int:
    """Return the largest multiple of a batch that is not above a number, at least one batch."""
    return max(1, int(characters) // BATCH_CHARACTERS) * BATCH_CHARACTERS


def length_schedule(lengths: Schedule, steps: int) -> str:
    """Return the value of `config.data.length_schedule` for equal shares of some steps.

    >>> length_schedule((10, 40, 160), 100), length_schedule((40,), 100)
    ('10:33,40:33', '')
    """
    ends = [math.floor(steps * share / len(lengths)) for share in range(len(lengths))]
    shares = zip(lengths[:-1], ends[:-1], ends[1:], strict=True)
    return ",".join(f"{length}:{end - start}" for length, start, end in shares)


# About 300,000 parameters: larger models would not learn enough from 640,000 characters.
_SMALL: Mapping[str, Mapping[str, Any]] = {
    "lstm": {"model.embedding_size": 64, "model.hidden_size": 224, RATE: 0.08},
    "transformer": {"model.embedding_size": 80, "model.hidden_size": 80, "model.heads": 2},
    "mingru": {"model.embedding_size": 96, "model.hidden_size": 96},
}
_FEW = (10, 40, 160, 640)
_SCHEDULES = ((10, 160), (10, 40, 160))

# The best of the preset `trained`.
_TRAINED_RATES = {
    "lstm-T10-reset": 0.012,
    "lstm-T40-reset": 0.012,
    "lstm-T80-reset": 0.012,
    "lstm-T320-reset": 0.012,
    "lstm-T10-carried": 0.006,
    "lstm-T40-carried": 0.012,
    "lstm-T80-carried": 0.006,
    "lstm-T320-carried": 0.006,
}

PRESETS: Mapping[str, Preset] = {
    "minutes": Preset(
        models={
            "lstm": Model(
                "lstm",
                {"model.embedding_size": 64, "model.hidden_size": 160, RATE: 0.08},
                lengths=_FEW,
            )
        },
        corpus="mysterious-island",
        effort=Effort(3, 358_400, (1, 2), scores=4),
        watched=25_600,
        context_reach=160,
        context_targets=400,
    ),
    "early": Preset(
        models={
            "lstm": Model("lstm", _SMALL["lstm"], schedules=_SCHEDULES, is_timed=True),
            "transformer": Model(
                "transformer",
                _SMALL["transformer"],
                lengths=_FEW,
                states=("reset",),
                has_attention=True,
            ),
            "mingru": Model("mingru", _SMALL["mingru"], lengths=_FEW, states=("reset",)),
        },
        corpus="mysterious-island",
        effort=Effort(4, 640_000, (1, 2, 3), scores=10),
        watched=51_200,
    ),
    "trained": Preset(
        models={
            "lstm": Model("lstm:1.6M", {}, schedules=_SCHEDULES),
            "transformer": Model(
                "transformer",
                {},
                lengths=_FEW,
                states=("reset",),
                is_repeated=False,
                has_attention=True,
            ),
            "mingru": Model("mingru", {}, lengths=_FEW, states=("reset",), is_repeated=False),
        },
        corpus="mysterious-island",
        effort=Effort(3, 4_000_000, (1, 2, 3), scores=40),
        watched=51_200,
        patience=10,
        repeated=(40, 80, 160, 320, 640),
    ),
    "second_text": Preset(
        models={"lstm": Model("lstm:1.6M", {}, lengths=(10, 40, 80, 320))},
        corpus="",
        effort=Effort(1, 4_000_000, (1,), scores=40),
        watched=51_200,
        patience=10,
        rates=_TRAINED_RATES,
    ),
}
