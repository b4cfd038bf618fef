"""What does the scale factor do to the text that is drawn?

    python -m experiments.scale_factor --workdir=RUN
    python -m experiments.scale_factor --workdir=RUN --config=sweeps/scale_factor:policies

Eleven settings of the scale factor, the textbook's three among them; `policies` adds eleven each of
top-k, top-p and min-p, at scale 1. This sweep draws from runs that are there, and trains nothing:
`get_config` says what is common to all settings, `sweep` what each of them changes.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import base

SCALES = (0.25, 0.35, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0, 5.0)
TRUNCATIONS = {
    "top_k": (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50),
    "top_p": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.995),
    "min_p": (0.7, 0.5, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.01, 0.003),
}


def get_config(what: str = "scales") -> ConfigDict:
    base.pick(what, {"scales": 0, "policies": 0})
    config = ConfigDict()
    # What every sample goes on from; where it is empty, or a model does not know one of its
    # characters, the first words of the held-out text.
    config.prompt = "The island"
    config.samples = 50
    # Drawn in each sample.
    config.characters = 500
    # Root of the noise, which is the same under every setting.
    config.seed = 0
    config.scale = 1.0
    config.top_k = 0
    config.top_p = 1.0
    config.min_p = 0.0
    return config


def sweep(what: str = "scales") -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = [{"scale": scale} for scale in SCALES]
    if what == "policies":
        points += [{name: value} for name, values in TRUNCATIONS.items() for value in values]
    return points
