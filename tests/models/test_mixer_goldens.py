"""Mixers against public implementations; `tests/goldens/make_mixer_goldens.py` says which."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from charlm_jax.models.mixers import build_mixer
from tests.conftest import ROOT, make_model_config, quick_jit

pytestmark = pytest.mark.optimised

GOLDENS = np.load(ROOT / "tests" / "goldens" / "mixers.npz")
NAMES = sorted({key.partition("/")[0] for key in GOLDENS.files} - {"about"})
FORMS: Mapping[str, list[dict[str, Any]]] = {
    "rglru": [{"scan": "sequential"}, {"scan": "associative"}],
    "gated_deltanet": [{"chunk_size": size} for size in (1, 7, 64)],
    "mamba2": [{"chunk_size": size} for size in (1, 7, 64)],
    "mlstm": [{"chunk_size": size} for size in (1, 7, 64)],
    "slstm": [{}],
}


def nested(prefix: str) -> dict[str, Any]:
    """Arrays under a prefix, as a nested dict."""
    tree: dict[str, Any] = {}
    for key in GOLDENS.files:
        if key.startswith(prefix):
            *sections, name = key.removeprefix(prefix).split("/")
            node = tree
            for section in sections:
                node = node.setdefault(section, {})
            node[name] = GOLDENS[key]
    return tree


@pytest.mark.parametrize(("name", "form"), [(name, x) for name in NAMES for x in FORMS[name]])
def test_outputs_are_those_of_a_public_implementation(name: str, form: dict[str, Any]) -> None:
    x_BTD, expected_BTH = GOLDENS[f"{name}/x"], GOLDENS[f"{name}/y"]
    width = x_BTD.shape[-1]
    sizes = {"embedding_size": width, "hidden_size": width, "heads": 2, "state_size": 5}
    mixer = build_mixer(name, make_model_config(name, **sizes, **form), width)
    params = nested(f"{name}/params/")
    state = mixer.initial_state(len(x_BTD), 0)
    y_BTH, _ = quick_jit(mixer.apply)({"params": params}, x_BTD, state)
    np.testing.assert_allclose(y_BTH, expected_BTH, atol=2e-5, rtol=2e-5)
