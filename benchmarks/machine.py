"""Machine description: processor, system, package versions and relevant environment variables."""

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from charlm_jax._version import __version__

# Some packages are distributed under several names.
PACKAGES = {
    "jax": ("jax",),
    "jaxlib": ("jaxlib",),
    "flax": ("flax",),
    "optax": ("optax",),
    "numpy": ("numpy",),
    "torch": ("torch",),
    "keras": ("keras",),
    "tensorflow": ("tensorflow", "tensorflow-cpu", "tensorflow-macos"),
}
VARIABLES = (
    *("JAX_", "XLA_", "TF_ENABLE_", "TF_NUM_", "TF_XLA_", "ONEDNN_", "TORCH_"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD"),
)


def describe_machine() -> Mapping[str, object]:
    """Describe the machine without importing the packages, which keeps the parent process small."""
    return {
        "processor": processor(),
        "cores": cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {
            "charlm_jax": __version__,
            **{name: found for name in PACKAGES if (found := installed(name))},
        },
        "variables": {k: v for k, v in sorted(os.environ.items()) if k.startswith(VARIABLES)},
    }


def processor() -> str:
    """Return the name of the processor, if the system provides it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def cores() -> int:
    """Return the number of cores available to this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def installed(package: str) -> str:
    """Return the version of a package; empty if it is not installed."""
    for name in PACKAGES[package]:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""
