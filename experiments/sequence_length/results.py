"""All results of the study, and their form in results.json."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from charlm_jax.analysis.loss_breakdown import GroupLoss
from charlm_jax.comparison.compare import Baseline, BaselineKind
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.json_files import to_jsonable
from charlm_jax.evaluation.bootstrap import Difference, Interval
from experiments.sequence_length.measures import (
    Condition,
    LengthComparison,
    Measurements,
    RateKey,
)


class Results(NamedTuple):
    """All results of the study.

    Attributes:
      tried: loss of the first seed on the second part, by learning rate, for every model, length
        and state.
      measurements: measurements of every condition.
      comparisons: conditions that differ only in length, compared with the best.
      carried: loss with carried state less that with reset state, by model and length.
      by_context: model -> change -> n -> loss when all but the nearest n characters of context are
        changed.
      effective: model -> change -> effective context in characters.
      baselines: simple predictors, scored on the same characters.
      characters: number of scored characters.
    """

    tried: Mapping[RateKey, Mapping[float, float]]
    measurements: Mapping[Condition, Measurements]
    comparisons: Sequence[LengthComparison]
    carried: Mapping[tuple[str, int], Difference]
    by_context: Mapping[str, Mapping[str, Mapping[int, Interval]]]
    effective: Mapping[str, Mapping[str, int]]
    baselines: Sequence[Baseline]
    characters: int

    @property
    def best_baseline(self) -> tuple[str, Interval]:
        """Name and loss of the best simple predictor with per-character losses."""
        losses = [(b.name, b.loss) for b in self.baselines if b.loss is not None]
        return min(losses, key=lambda pair: pair[1].mean)


def to_json(results: Results, command: str) -> dict[str, Any]:
    """Returns the content of results.json."""
    return {
        "command": command,
        "tried": [
            {"model": model, "length": length, "state": state, "loss_by_rate": to_jsonable(losses)}
            for (model, length, state), losses in results.tried.items()
        ],
        "figures": [
            {**condition._asdict(), **to_jsonable(x)}
            for condition, x in results.measurements.items()
        ],
        "groups": to_jsonable(results.comparisons),
        "carried": [
            {"model": model, "length": length, **to_jsonable(x)}
            for (model, length), x in results.carried.items()
        ],
        "looks": to_jsonable(results.by_context),
        "effective": to_jsonable(results.effective),
        "baselines": [
            {"name": b.name, "loss": to_jsonable(b.loss), "bits_per_char": b.bits_per_char}
            for b in results.baselines
        ],
        "characters": results.characters,
    }


def read_results(file: Path) -> Results:
    """Read a results.json.

    Raises:
      CharlmError: the file is missing, or is not a results.json of this study.
    """
    try:
        return _from_json(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise CharlmError(f"{file} does not exist: run the study first") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CharlmError(f"{file} is damaged: run the study again") from error


def _from_json(values: Mapping[str, Any]) -> Results:
    return Results(
        tried={
            (x["model"], x["length"], x["state"]): {
                float(rate): loss for rate, loss in x["loss_by_rate"].items()
            }
            for x in values["tried"]
        },
        measurements={_condition(x): _measurements(x) for x in values["figures"]},
        comparisons=[
            LengthComparison(
                model=x["model"],
                state=x["state"],
                budget=x["budget"],
                lengths=tuple(x["lengths"]),
                best=x["best"],
                to_best=[y and _difference(y) for y in x["to_best"]],
                by_class={name: _difference(y) for name, y in x["by_class"].items()},
            )
            for x in values["groups"]
        ],
        carried={(x["model"], x["length"]): _difference(x) for x in values["carried"]},
        by_context={
            model: {
                change: {int(n): _interval(y) for n, y in by_n.items()}
                for change, by_n in by_change.items()
            }
            for model, by_change in values["looks"].items()
        },
        effective=values["effective"],
        baselines=[_baseline(x) for x in values["baselines"]],
        characters=values["characters"],
    )


def _baseline(values: Mapping[str, Any]) -> Baseline:
    """Returns a baseline; its kind, which the file omits, follows from its name and loss."""
    name, loss = values["name"], values["loss"] and _interval(values["loss"])
    kinds: dict[str, BaselineKind] = {"uniform": "uniform", "unigram": "unigram"}
    kind = kinds.get(name, "compressor" if loss is None else "ngram")
    return Baseline(name, kind, loss, values["bits_per_char"])


def _condition(values: Mapping[str, Any]) -> Condition:
    fields = {name: values[name] for name in Condition._fields}
    return Condition(**{**fields, "seeds": tuple(values["seeds"])})


def _measurements(values: Mapping[str, Any]) -> Measurements:
    return Measurements(
        window=_interval(values["window"]),
        stream=_interval(values["stream"]),
        spread=values["spread"],
        cold_start=_interval(values["cold_start"]),
        by_place=[_group_loss(x) for x in values["by_place"]],
        by_class=[_group_loss(x) for x in values["by_class"]],
    )


def _group_loss(values: Mapping[str, Any]) -> GroupLoss:
    return GroupLoss(**{**values, "interval": _interval(values["interval"])})


def _interval(values: Mapping[str, Any]) -> Interval:
    """Returns an interval; null in JSON stands for an unbounded end."""
    low = -math.inf if values["low"] is None else values["low"]
    high = math.inf if values["high"] is None else values["high"]
    return Interval(values["mean"], low, high)


def _difference(values: Mapping[str, Any]) -> Difference:
    return Difference(*_interval(values))
