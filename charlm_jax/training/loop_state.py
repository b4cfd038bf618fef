"""Host-side training progress, saved with every checkpoint."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple


class Totals(NamedTuple):
    """Totals of losses, characters and time, and the largest gradient norm.

    Attributes:
      nats: loss summed over characters, in float64.
      characters: number of characters.
      seconds: time spent only on these characters.
      gradient_norm: largest norm of a step's gradient; 0 if no gradient was computed.
    """

    nats: float = 0.0
    characters: int = 0
    seconds: float = 0.0
    gradient_norm: float = 0.0

    def plus(self, other: "Totals") -> "Totals":
        """Return the totals of both: sums, and the larger norm."""
        return Totals(
            self.nats + other.nats,
            self.characters + other.characters,
            self.seconds + other.seconds,
            max(self.gradient_norm, other.gradient_norm),
        )

    @property
    def mean_nats(self) -> float:
        """Mean loss per character, in nats."""
        return self.nats / self.characters

    @property
    def chars_per_second(self) -> float:
        """Characters per second."""
        return self.characters / max(self.seconds, 1e-9)


NOTHING = Totals()

# Fields that an evaluation of the held-out text changes.
_SCORES = ("best_loss_nats", "best_step", "scores_since_best")


@dataclasses.dataclass
class LoopState:
    """Training progress of a run.

    Attributes:
      step: number of updates that are accounted for.
      epoch: totals of the current epoch.
      window: totals since the last `step` row.
      seconds: wall-clock time of the run, earlier sessions included.
      best_loss_nats: lowest held-out loss; None before the first evaluation.
      best_step: step of the lowest held-out loss.
      scores_since_best: number of evaluations of the held-out text since then.
      score_is_due: True if the held-out text is to be scored at this step: a signal came first.
    """

    step: int = 0
    epoch: Totals = NOTHING
    window: Totals = NOTHING
    seconds: float = 0.0
    best_loss_nats: float | None = None
    best_step: int = 0
    scores_since_best: int = 0
    score_is_due: bool = False

    def add_score(self, loss_nats: float) -> None:
        """Record a held-out loss if it is the lowest so far; of equal losses, the first is kept."""
        if self.best_loss_nats is None or loss_nats < self.best_loss_nats:
            self.best_loss_nats = loss_nats
            self.best_step = self.step
            self.scores_since_best = 0
        else:
            self.scores_since_best += 1
        self.score_is_due = False

    @property
    def scores(self) -> dict[str, Any]:
        """The best held-out loss and its step, as JSON values, for `with_scores`."""
        return {name: getattr(self, name) for name in _SCORES}

    def with_scores(self, scores: Mapping[str, Any]) -> "LoopState":
        """Return the state before the latest evaluation, which is due again.

        Args:
          scores: value of `scores` before it.

        Raises:
          KeyError: a value is missing.
          TypeError: a value is not a number.
        """
        values = {name: scores[name] for name in _SCORES}
        return LoopState.from_json({**self.to_json(), **values, "score_is_due": True})

    @property
    def mark(self) -> str:
        """The latest held-out loss compared with the earlier ones, in words."""
        return f"no better since step {self.best_step}" if self.scores_since_best else "best"

    def to_json(self) -> dict[str, Any]:
        """Return plain values; floats survive a JSON round trip exactly."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "LoopState":
        """Return the state from the values that `to_json` returned.

        Raises:
          KeyError: a value is missing.
          TypeError: a value is unknown, or not a number.
        """
        totals = {name: Totals(*values[name]) for name in ("epoch", "window")}
        state = cls(**{**values, **totals})
        others = (state.step, state.seconds, state.best_step, state.scores_since_best)
        numbers = (*state.epoch, *state.window, *others, state.best_loss_nats or 0.0)
        if not all(type(number) in (int, float) for number in numbers):
            raise TypeError("a value is not a number")
        return state
