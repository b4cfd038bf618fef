"""Sampling settings compared by the study, and the size of its samples."""

from typing import Any, NamedTuple

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.limits import MAX_INT32, require_within
from charlm_jax.sampling.categorical import temperature
from charlm_jax.sampling.params import SamplingParams

TRUNCATIONS = ("top_k", "top_p", "min_p")
TEXTBOOK_SCALES = (0.5, 1.0, 2.0)


class Setting(NamedTuple):
    """One way to sample text.

    Attributes:
      varied: field that distinguishes this setting from others of its kind.
      scale: scale factor, 1 / temperature.
      top_k: number of most probable symbols kept; 0 keeps all.
      top_p: probability mass kept, in (0, 1].
      min_p: smallest probability kept, relative to the largest.
    """

    varied: str
    scale: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    @property
    def value(self) -> float:
        """Value of the varied field."""
        return float(getattr(self, self.varied))

    @property
    def name(self) -> str:
        """Varied field with its value, followed by all other non-default fields."""
        own = f"{self.varied} {self.value:g}"
        if self.varied == "scale":
            own += f" (temperature {temperature(self.scale):.3g})"
        rest = [
            f"{name} {getattr(self, name):g}"
            for name in ("scale", *TRUNCATIONS)
            if name != self.varied and getattr(self, name) != getattr(UNCHANGED, name)
        ]
        return ", ".join([own, *rest])


UNCHANGED = Setting("scale")
"""The model's own distribution."""

# Truncation is applied before the scale, which is 1 unless varied.
_SCALES = [
    Setting("scale", scale=scale)
    for scale in (0.25, 0.35, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0, 5.0)
]
_TOP_K = [Setting("top_k", top_k=k) for k in (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50)]
_TOP_P = [
    Setting("top_p", top_p=p) for p in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.995)
]
_MIN_P = [
    Setting("min_p", min_p=p)
    for p in (0.7, 0.5, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.01, 0.003)
]
SETTINGS = {"scales": _SCALES, "policies": [*_SCALES, *_TOP_K, *_TOP_P, *_MIN_P]}


class SamplePlan(NamedTuple):
    """Prompt, number, length and seed of the samples, shared by all settings.

    Attributes:
      prompt: text that every sample continues.
      samples: number of samples under each setting.
      characters: length of a sample.
      seed: seed of the sampling noise, shared by all settings.
    """

    prompt: str = "The island"
    samples: int = 50
    characters: int = 500
    seed: int = 0


def check_plan(plan: SamplePlan) -> None:
    """Refuse values out of range.

    Raises:
      CharlmError: fewer than 4 samples, no characters, or a seed outside [0, 2**32).
    """
    require_within("samples", plan.samples, 4, MAX_INT32)  # halves are compared
    require_within("characters", plan.characters, 1, MAX_INT32)
    require_within("seed", plan.seed, 0, 2**32 - 1)


def truncated(settings: list[Setting], **truncation: Any) -> list[Setting]:
    """Return the settings with top_k, top_p or min_p set in all of them.

    Args:
      settings: settings to change.
      **truncation: values by field; None leaves a field unchanged.

    Raises:
      CharlmError: the settings vary one of these fields, or a value is out of range.
    """
    values = {name: value for name, value in truncation.items() if value is not None}
    SamplingParams(**values)  # refuses what is out of range
    for setting in settings:
        if setting.varied in values:
            raise CharlmError(f"--{setting.varied} is varied by these settings: leave it out")
    return [setting._replace(**values) for setting in settings]
