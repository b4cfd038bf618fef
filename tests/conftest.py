"""Options, JAX settings and fixtures shared by all tests.

`make test` runs with XLA's optimisations off, which makes compiling four to eight times as fast.
`make test-all` then runs the tests marked `exhaustive`, and those marked `optimised` again, with
programs compiled as users compile them (--exhaustive). Where only `exhaustive` is marked, those of
`quick_jit` are not.
"""

import contextlib
import ctypes
import gc
import logging
import math
import os
import resource
import signal
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import settings

from charlm_jax.config.loading import load_config
from charlm_jax.config.schema import Config, ModelConfig
from charlm_jax.data.dataset import Dataset
from charlm_jax.models import LanguageModel, build_model
from charlm_jax.training.loop import train_and_evaluate
from charlm_jax.training.progress_bar import NullProgress
from charlm_jax.training.trainer import Trainer, build_trainer

ROOT = Path(__file__).parent.parent

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(ROOT / "tests" / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

# A change is judged by the same examples each time; `--search` looks for others.
settings.register_profile("make test", deadline=None, max_examples=30, derandomize=True)
settings.register_profile("make test-all", deadline=None, max_examples=100, derandomize=True)
settings.register_profile("--search", deadline=None, max_examples=500)


def examples(factor: float, **others: Any) -> settings:
    """Hypothesis settings with `factor` times the usual number of examples."""
    return settings(max_examples=round(factor * settings.default.max_examples), **others)


# Read by XLA when the first program is compiled, here and in the processes that tests start.
# XLA ends a process that names a flag it does not know; jax 0.12 no longer has the last one.
UNOPTIMISED = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
]
if jax.__version_info__ < (0, 11):
    UNOPTIMISED.append("--xla_cpu_use_fusion_emitters=false")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--exhaustive",
        action="store_true",
        help="run the tests marked exhaustive or optimised, and no others, and let XLA optimise",
    )
    parser.addoption(
        "--search",
        action="store_true",
        help="give tests of properties other examples at each run, and more of them",
    )


def pytest_configure(config: pytest.Config) -> None:
    for number in (signal.SIGINT, signal.SIGHUP):  # processes in the background ignore them
        if signal.getsignal(number) is signal.SIG_IGN:
            is_interrupt = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if is_interrupt else signal.SIG_DFL)
    is_exhaustive = config.getoption("exhaustive")
    settings.load_profile("make test-all" if is_exhaustive else "make test")
    if config.getoption("search"):
        settings.load_profile("--search")
    if not is_exhaustive:
        given = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = " ".join([*UNOPTIMISED, given])  # the last of two flags counts


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if not _runs(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if _runs(item)]


def _runs(item: pytest.Item) -> bool:
    if item.get_closest_marker("exhaustive"):
        return bool(item.config.getoption("exhaustive"))
    return not item.config.getoption("exhaustive") or bool(item.get_closest_marker("optimised"))


_CLEARED_ABOVE = 1.0e9  # bytes of a worker


@pytest.fixture(scope="module", autouse=True)
def _free_compiled_programs() -> Iterator[None]:
    """Bound the memory of a worker: compiled programs are the most of it."""
    yield
    if _resident_bytes() > _CLEARED_ABOVE:
        _TRAINERS.clear()
        jax.clear_caches()
        gc.collect()
        with contextlib.suppress(AttributeError):  # glibc alone has it, and keeps what is freed
            ctypes.CDLL(None).malloc_trim(0)


def _resident_bytes() -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return math.inf
    return float(pages * resource.getpagesize())


_TRAINERS: dict[tuple[Config, str], Trainer] = {}


@pytest.fixture(scope="session", autouse=True)
def _share_trainers() -> Iterator[None]:
    """Runs of equal config and text share what they compile."""

    def build_once(config: Config, dataset: Dataset) -> Trainer:
        key = (config, dataset.fingerprint)
        if key not in _TRAINERS:
            _TRAINERS[key] = build_trainer(config, dataset)
        return _TRAINERS[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("charlm_jax.training.loop.build_trainer", build_once)
        yield


_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
_is_optimised = False  # whether the test that runs is marked so, with --exhaustive


def pytest_runtest_setup(item: pytest.Item) -> None:
    global _is_optimised
    is_marked = item.get_closest_marker("optimised") is not None
    _is_optimised = is_marked and bool(item.config.getoption("exhaustive"))


def quick_jit(function: Callable[..., Any], **options: Any) -> Any:
    """`jax.jit` for programs that run a few times; `jax.jit` itself in tests marked `optimised`.

    Without LLVM's optimisations, compiling takes half the time.
    """
    return jax.jit(function, compiler_options=None if _is_optimised else _QUICK, **options)


def compiled_model(config: ModelConfig, vocab_size: int) -> LanguageModel:
    """A model with compiled functions; otherwise every operation is compiled by itself."""
    model = build_model(config, vocab_size)
    return model._replace(
        init=jax.jit(model.init), apply=jax.jit(model.apply), inspect=jax.jit(model.inspect)
    )


@contextlib.contextmanager
def compiled_programs() -> Iterator[list[str]]:
    """What JAX says of the programs that it compiles meanwhile."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    programs: list[str] = []
    logger = logging.getLogger("jax")
    logger.addHandler(handler)
    try:
        with jax.log_compiles():
            yield programs
    finally:
        logger.removeHandler(handler)
        programs.extend(line for line in said if line.startswith("Compiling "))


def draw(seed: int, *shape: int) -> jax.Array:
    """Standard normal numbers, float32."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


TINY = {
    "data.corpus": "synthetic:reach=2,symbols=4,characters=3000,seed=1",
    "data.sequence_length": 8,
    "data.batch_size": 16,
    "model.embedding_size": 5,
    "model.hidden_size": 6,
    "train.epochs": 2,
    "train.log_every_steps": 5,
    "train.steps_per_dispatch": 4,
    "evaluation.batch_size": 7,
}


@pytest.fixture
def tiny_config() -> Config:
    """A run of a second: 2 epochs of 300 targets a step on a synthetic text."""
    return make_tiny_config()


def make_tiny_config(**changes: object) -> Config:
    """The tiny config with dotted fields changed: `make_tiny_config(**{"seed": 2})`."""
    return load_config(str(ROOT / "configs" / "base.py"), TINY | changes)


def make_model_config(*layers: str, **changes: object) -> ModelConfig:
    """A model of tiny sizes: `make_model_config("lstm", hidden_size=8)`."""
    fields = {f"model.{name}": value for name, value in changes.items()}
    return make_tiny_config(**{"model.layers": layers, **fields}).model


# What the runs of `seeded_runs` have in common, beside `TINY`.
SEEDED = {"split.valid_fraction": 0.7, "train.max_steps": 10}


@pytest.fixture(scope="session")
def seeded_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with trained runs of two sizes, and two seeds of each, that hold much text out.

    Tests read them, and may score them; nothing trains them on.
    """
    folder = tmp_path_factory.mktemp("runs")
    for size in (6, 12):
        for seed in (1, 2):
            config = make_tiny_config(**SEEDED, **{"seed": seed, "model.hidden_size": size})
            train_and_evaluate(config, folder / f"size_{size}_seed_{seed}")
    return folder


@pytest.fixture(scope="module")
def child_environment() -> Iterator[None]:
    """What processes that train need: this package, and the tests' compilation cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(jax.config.jax_compilation_cache_dir))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    """A small text of words and lines."""
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog.\n" * 60, encoding="utf-8")
    return path


class Notes(NullProgress):
    """Collects the messages of a run."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)


class FakeNotebook:
    """What a notebook shows below its running cell, and how often it was told to."""

    def __init__(self) -> None:
        self.output: dict[str, str] = {}
        self.updates = 0
        self.outputs = 0

    def display(self, bundle: dict[str, str], *, raw: bool, display_id: bool) -> "FakeNotebook":
        assert raw and display_id
        self.outputs += 1
        self.update(bundle, raw=True)
        return self

    def update(self, bundle: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.output = bundle
        self.updates += 1


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> FakeNotebook:
    """This process as the kernel of a notebook, as far as IPython tells."""
    shell = type("ZMQInteractiveShell", (), {})
    fake = FakeNotebook()
    package = types.ModuleType("IPython")
    package.get_ipython = type("Shell", (shell,), {})  # type: ignore[attr-defined]
    display = types.ModuleType("IPython.display")
    display.display = fake.display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return fake


@pytest.fixture
def book() -> str:
    """The tutorial's text; skips where no folder of downloaded files is named."""
    from charlm_jax.data.corpora import load_corpus

    folder = os.environ.get("CHARLM_CORPORA")
    if not folder or not (Path(folder) / "1268-0.txt").is_file():
        pytest.skip("CHARLM_CORPORA names no folder with 1268-0.txt: the book is not at hand")
    return load_corpus("mysterious-island").text


@pytest.fixture
def deep_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A chain of 1,000 folders, removed afterwards: `shutil.rmtree` may recurse too deep for it."""
    monkeypatch.chdir(tmp_path)
    for _ in range(1000):
        os.mkdir("d")
        os.chdir("d")
    yield tmp_path
    for _ in range(1000):
        os.chdir("..")
        os.rmdir("d")
