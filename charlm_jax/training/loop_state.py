"""What a run has seen so far, on the host. It is saved with every checkpoint."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple


class RunningMean(NamedTuple):
    """A running sum of losses, and of the time that it took.

    Attributes:
      nats: summed over characters, in float64.
      characters: how many.
      seconds: spent on them alone.
    """

    nats: float = 0.0
    characters: int = 0
    seconds: float = 0.0

    def plus(self, other: "RunningMean") -> "RunningMean":
        """Both together."""
        return RunningMean(
            self.nats + other.nats,
            self.characters + other.characters,
            self.seconds + other.seconds,
        )

    @property
    def mean_nats(self) -> float:
        """Loss per character."""
        return self.nats / self.characters

    @property
    def chars_per_second(self) -> float:
        """Speed."""
        return self.characters / max(self.seconds, 1e-9)


NOTHING = RunningMean()


@dataclasses.dataclass
class LoopState:
    """What a run has seen so far.

    Attributes:
      step: updates that are accounted for.
      epoch: of the current epoch.
      window: since the last `step` row.
      seconds: wall-clock time of the run, earlier sessions included.
      best_loss_nats: lowest held-out loss, None before the first.
      best_step: where that was.
      scores_since_best: how often the held-out text was scored after that.
    """

    step: int = 0
    epoch: RunningMean = NOTHING
    window: RunningMean = NOTHING
    seconds: float = 0.0
    best_loss_nats: float | None = None
    best_step: int = 0
    scores_since_best: int = 0

    def add_score(self, loss_nats: float) -> None:
        """Remember a held-out loss if it is the best; the first of two that are equal is."""
        if self.best_loss_nats is None or loss_nats < self.best_loss_nats:
            self.best_loss_nats = loss_nats
            self.best_step = self.step
            self.scores_since_best = 0
        else:
            self.scores_since_best += 1

    def to_json(self) -> dict[str, Any]:
        """Plain values; floats come back from JSON as they were."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "LoopState":
        """Returns the state from the values that `to_json` returned."""
        means = {name: RunningMean(*values[name]) for name in ("epoch", "window")}
        return cls(**{**values, **means})
