"""What the last bit of a run depends on beside its config: machine, versions, threads."""

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import jax

from charlm_jax import __version__

Environment = Mapping[str, str | int]

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def environment() -> Environment:
    """The facts of this process: with all of them equal, a run is repeated bit for bit."""
    return {
        "charlm_jax": __version__,
        "python": platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "threads": _threads(),
        "variables": " ".join(
            f"{name}={value}" for name, value in sorted(os.environ.items()) if _counts(name)
        ),
    }


def differences(there: Environment, here: Environment) -> list[str]:
    """What is not the same in two environments, in words."""
    return [
        f"{name} was {there.get(name)!r} and is {here.get(name)!r}"
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    ]


def _counts(name: str) -> bool:
    """Whether an environment variable may change what XLA computes."""
    if name in ("XLA_FLAGS", "NPROC", "PJRT_NPROC"):
        return True
    is_idle = any(word in name for word in ("CACHE", "LOG", "TRACEBACK"))
    return name.startswith("JAX_") and not is_idle


def _threads() -> int:
    """Processors that this process may use; XLA splits its work by that number."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    """The processor's name: XLA chooses instructions by it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
