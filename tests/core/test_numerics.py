"""Results depend on no setting of the process: neither JAX's nor Flax's."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import charlm_jax
from charlm_jax.core.numerics import SETTINGS, fixed_numerics, fixed_numerics_per_item
from charlm_jax.core.prng import root_key
from charlm_jax.evaluation import Sliding, Stream
from charlm_jax.models.flops import forward_flops
from charlm_jax.models.summary import summarize
from charlm_jax.storage.metrics_log import MetricsLog
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.loop import train_and_evaluate
from charlm_jax.training.reproduce import verify_run
from tests.conftest import TINY, make_tiny_config

CHANGES = {
    "model.layers": ("lstm", "attention"),
    "model.embedding_size": 8,
    "model.hidden_size": 8,
    "model.heads": 2,
    "model.position": "rotary",
    "model.block": "pre_norm",
    "model.dropout": 0.1,
    "data.loader": "crops",
    "train.max_steps": 4,
    "train.sample_every_steps": 3,
    "split.valid_fraction": 0.3,
}

# Each changes results, or makes JAX refuse some program, where it is not overridden.
OTHER = [
    ("jax_enable_x64", True),
    ("jax_default_prng_impl", "rbg"),
    ("jax_default_prng_impl", "unsafe_rbg"),
    ("jax_threefry_partitionable", False),
    ("jax_default_matmul_precision", "bfloat16"),
    ("jax_softmax_custom_jvp", True),
    ("jax_allow_f16_reductions", False),
    ("jax_disable_jit", True),
    ("jax_numpy_dtype_promotion", "strict"),
    ("jax_numpy_rank_promotion", "raise"),
    ("jax_debug_nans", True),
    ("jax_debug_infs", True),
    ("jax_debug_key_reuse", True),
    ("jax_legacy_prng_key", "error"),
    ("jax_transfer_guard", "disallow"),
    ("jax_high_dynamic_range_gumbel", True),
    ("jax_random_seed_offset", 7),
    ("flax_fix_rng_separator", True),
]

# As environment variables, which count before anything is imported.
VARIABLES = {
    "JAX_ENABLE_X64": "1",
    "JAX_DEFAULT_PRNG_IMPL": "unsafe_rbg",
    "JAX_THREEFRY_PARTITIONABLE": "0",
    "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16",
    "JAX_SOFTMAX_CUSTOM_JVP": "1",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_DEBUG_NANS": "1",
    "JAX_DEBUG_KEY_REUSE": "1",
    "JAX_HIGH_DYNAMIC_RANGE_GUMBEL": "1",
    "JAX_RANDOM_SEED_OFFSET": "7",
    "FLAX_FIX_RNG_SEPARATOR": "1",
}


@contextlib.contextmanager
def _set(name: str, value: Any) -> Iterator[None]:
    config = flax.config if name.startswith("flax") else jax.config
    before = getattr(config, name)
    config.update(name, value)
    try:
        yield
    finally:
        config.update(name, before)


def _train(folder: Path) -> list[tuple[str, float]]:
    train_and_evaluate(make_tiny_config(**CHANGES), folder)
    rows = MetricsLog(Workdir(folder).metrics_file).rows()
    return [(row["state_hash"], row["loss_nats"]) for row in rows]


def _use(folder: Path) -> dict[str, Any]:
    """What a run gives, down to the bits of its arrays."""
    run = charlm_jax.load_run(folder)
    text = run.vocabulary.symbols * 4
    batches = run.sample(text, characters=30, samples=2, scales=[0.5, 2.0], top_p=0.9, seed=2**31)
    arrays = {
        "window": run.evaluate()[1],
        "stream": run.evaluate(Stream())[1],
        "sliding": run.evaluate(Sliding(8, 20))[1],
        "score": run.score(text).nll_N,
        "top": run.top_predictions(text).probability_NG,
        "inspect": run.inspect(text).logits_TV,
    }
    return {
        "sample": ["".join(chunk.text for chunk in row) for row in zip(*batches, strict=True)],
        "re-read": run.generate(text, characters=20, mode="window", seed=5),
        "continued": [chunk.text for chunk in run.continue_text(text, characters=20)],
        "flops": forward_flops(run.config.model, symbols=4, sequence_length=8),
        "summary": summarize(run.config.model, 4),
        **{name: (x.dtype, x.tobytes()) for name, x in arrays.items()},
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("numerics") / "run"


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[tuple[str, float]]:
    return _train(folder)


@pytest.fixture(scope="module")
def results(folder: Path, rows: object) -> dict[str, Any]:
    return _use(folder)


def _check(settings: dict[str, Any], folder: Path, own: Path, rows: list, results: dict) -> None:
    with contextlib.ExitStack() as stack:
        for name, value in settings.items():
            stack.enter_context(_set(name, value))
        assert _train(own) == rows
        found = _use(own)
        assert verify_run(folder, steps=1).first_difference is None
    assert {key for key in results if found[key] != results[key]} == set()


def test_no_settings_of_the_process_change_a_run(
    rows: list, results: dict, folder: Path, tmp_path: Path
) -> None:
    _check(dict(OTHER), folder, tmp_path / "run", rows, results)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "value"), OTHER)
def test_no_setting_of_the_process_changes_a_run(
    rows: list, results: dict, folder: Path, tmp_path: Path, name: str, value: object
) -> None:
    _check({name: value}, folder, tmp_path / "run", rows, results)


def test_every_setting_is_tried_and_holds() -> None:
    values = dict(OTHER)
    assert SETTINGS.keys() <= values.keys()
    with contextlib.ExitStack() as stack:
        for name, (setting, _) in SETTINGS.items():
            stack.enter_context(setting(values[name]))
        with fixed_numerics():
            for name, (_, value) in SETTINGS.items():
                assert getattr(jax.config, name) == value, name


def test_the_settings_of_the_process_hold_again() -> None:
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    with _set("jax_enable_x64", True):

        @fixed_numerics_per_item
        def dtypes() -> Iterator[Any]:
            for _ in range(2):
                yield jnp.zeros(()).dtype

        for dtype in dtypes():
            assert dtype == jnp.float32 and jnp.zeros(()).dtype == jnp.float64
        with pytest.raises(ZeroDivisionError), fixed_numerics():
            raise ZeroDivisionError
        assert jnp.zeros(()).dtype == jnp.float64
    assert before == {name: getattr(jax.config, name) for name in SETTINGS}


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_root_key_is_that_of_jax(seed: int) -> None:
    expected = jax.random.key_data(jax.random.key(seed))
    np.testing.assert_array_equal(jax.random.key_data(root_key(seed)), expected)


@pytest.mark.exhaustive
@pytest.mark.usefixtures("child_environment")
def test_no_variable_of_the_environment_changes_a_run(tmp_path: Path) -> None:
    config = tmp_path / "small.py"
    changes = TINY | CHANGES
    config.write_text(
        "from configs import base\n\n\ndef get_config():\n    config = base.get_config()\n"
        + "".join(f"    config.{name} = {value!r}\n" for name, value in changes.items())
        + "    return config\n"
    )
    found = []
    for name, variables in {"plain": {}, "set": VARIABLES}.items():
        workdir = f"--workdir={tmp_path / name}"
        commands = [
            ["train", f"--config={config}", workdir],
            ["sample", workdir, "--prompt=ab", "--num=2", "--scale=1,2", "--json"],
            ["evaluate", workdir, "--mode=stream", "--json"],
            ["summary", f"--config={config}"],
        ]
        outputs = []
        for command in commands:
            result = subprocess.run(
                [sys.executable, "-m", "charlm_jax", *command],
                env={**os.environ, **variables},
                capture_output=True,
                text=True,
            )
            assert result.returncode == 0, result.stderr
            outputs.append(result.stdout)
        rows = MetricsLog(tmp_path / name / "metrics.jsonl").rows()
        hashes = [(row["state_hash"], row["loss_nats"]) for row in rows]
        found.append((hashes, outputs[1], json.loads(outputs[2]), outputs[3]))
    assert found[0] == found[1]
