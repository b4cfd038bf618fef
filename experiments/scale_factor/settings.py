"""What is drawn, and under which settings: a sweep's file, read."""

from collections.abc import Sequence
from typing import NamedTuple

from charlm_jax.config.loading import load_fields, split_override, sweep_points
from charlm_jax.core.errors import CharlmError, require_within
from charlm_jax.sampling.categorical import temperature

POLICY = ("scale", "top_k", "top_p", "min_p")


class Setting(NamedTuple):
    """How text is drawn.

    Attributes:
      varied: the one of the others that this setting stands for.
      scale: the scale factor, 1 / temperature.
      top_k: as in `charlm_jax.sampling.policies`.
      top_p: as in `charlm_jax.sampling.policies`.
      min_p: as in `charlm_jax.sampling.policies`.
    """

    varied: str
    scale: float
    top_k: int
    top_p: float
    min_p: float

    @property
    def value(self) -> float:
        """Of what is varied."""
        return float(getattr(self, self.varied))

    @property
    def name(self) -> str:
        """In words: what is varied, and what else is not as it is."""
        own = f"{self.varied} {self.value:g}"
        if self.varied == "scale":
            own += f" (temperature {temperature(self.scale):.3g})"
        rest = [
            f"{name} {getattr(self, name):g}"
            for name in POLICY
            if name != self.varied and getattr(self, name) != getattr(AS_IT_IS, name)
        ]
        return ", ".join([own, *rest])


AS_IT_IS = Setting("scale", scale=1.0, top_k=0, top_p=1.0, min_p=0.0)
"""The model's own distribution."""


class Draws(NamedTuple):
    """What is common to all settings.

    Attributes:
      prompt: what every sample goes on from.
      samples: under each setting.
      characters: drawn in each sample.
      seed: root of the noise.
    """

    prompt: str
    samples: int
    characters: int
    seed: int


def load_settings(spec: str, overrides: Sequence[str] = ()) -> tuple[Draws, list[Setting]]:
    """Read a sweep of settings.

    Args:
      spec: `sweeps/scale_factor`, or a file like it.
      overrides: texts such as `samples=10`.

    Raises:
      CharlmError: no such file, a field that is missing, unknown or out of range, a point that
        varies something else than one of `POLICY`, an override of what the points vary.
    """
    fields = load_fields(spec, overrides)
    wanted = {*Draws._fields, *POLICY}
    if set(fields) != wanted:
        odd = ", ".join(sorted(set(fields) ^ wanted))
        raise CharlmError(f"{spec} is no sweep of drawing: missing or not known in it: {odd}")
    draws = Draws(**{name: fields.pop(name) for name in Draws._fields})
    require_within("seed", draws.seed, 0, 2**32 - 1)
    require_within("samples", draws.samples, 4, 2**31 - 1)  # halves of which are compared
    settings = []
    points = sweep_points(spec)
    of_points = {name for point in points for name in point}
    for name, _ in map(split_override, overrides):
        if name in of_points:
            raise CharlmError(f"{spec} varies config.{name}: leave it out")
    for number, point in enumerate(points, start=1):
        if len(point) != 1 or not set(point) <= set(POLICY):
            raise CharlmError(
                f"point {number} of {spec} is {dict(point)!r}: it must vary one of "
                f"{', '.join(POLICY)}"
            )
        (varied,) = point
        policy = load_fields(spec, overrides, point=point)
        settings.append(Setting(varied, *(policy[name] for name in POLICY)))
    return draws, settings
