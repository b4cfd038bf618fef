"""Environment on which the exact bits of a run depend: machine, versions, threads."""

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import jax

from charlm_jax._version import __version__
from charlm_jax.core.numerics import SETTINGS

Environment = Mapping[str, str | int]

_VECTOR_INSTRUCTIONS = (
    "avx2",
    "avx512f",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "asimd",
    "bf16",
    "sve",
)
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def environment() -> Environment:
    """Return the facts of this process; if all are equal, a run on a CPU repeats bit for bit."""
    return {
        "charlm_jax": __version__,
        "python": platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "device": _device(),
        "threads": _threads(),
        "variables": " ".join(
            f"{name}={value}" for name, value in sorted(os.environ.items()) if _counts(name)
        ),
    }


def differences(there: Environment, here: Environment) -> list[str]:
    """Describe the differences between two environments, or two divisions of a step's work."""
    return [
        f"{name} was {there.get(name)!r} and is {here.get(name)!r}"
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    ]


def _counts(name: str) -> bool:
    """Return whether an environment variable may change what XLA computes."""
    if name in ("XLA_FLAGS", "NPROC", "PJRT_NPROC"):
        return True
    is_idle = any(word in name for word in ("CACHE", "LOG", "TRACEBACK"))
    is_idle |= name.lower() in SETTINGS  # overridden
    return name.startswith("JAX_") and not is_idle


def _device() -> str:
    """Return the number and kind of devices, and the number of several processes."""
    described = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    processes = jax.process_count()
    return described if processes == 1 else f"{described} in {processes} processes"


def _threads() -> int:
    """Return the number of processors this process may use; XLA splits its work by it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    """Return the processor's name and vector instructions, by which XLA chooses its own.

    Virtual machines of one name may have different instructions.
    """
    name = _cpuinfo("model name") or platform.processor()
    found = [flag for flag in _VECTOR_INSTRUCTIONS if flag in _processor_flags()]
    return f"{name} ({' '.join(found)})" if found else name


def lacks_bfloat16_units() -> bool:
    """Return whether this is a CPU known to lack instructions for bfloat16 products."""
    flags = _processor_flags()
    is_cpu = jax.default_backend() == "cpu"
    return is_cpu and bool(flags) and not {"amx_bf16", "avx512_bf16", "bf16"} & flags


def _processor_flags() -> set[str]:
    """Return the flags of an x86 or ARM processor; empty if unavailable."""
    return set((_cpuinfo("flags") or _cpuinfo("Features")).split())


def _cpuinfo(field: str) -> str:
    """Return a field of the first processor in /proc/cpuinfo; empty if unavailable."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    values = (line.partition(":")[2].strip() for line in lines if line.startswith(field))
    return next(values, "")
