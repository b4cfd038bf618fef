"""Conversion of values to JSON, and atomic writes of JSON files."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from charlm_jax.core.files import atomic_write


def to_jsonable(value: Any) -> Any:
    """Convert named tuples to objects, arrays and tuples to lists, non-finite numbers to null.

    >>> to_jsonable({"scales": (0.5, np.float32(2.0), math.inf)})
    {'scales': [0.5, 2.0, None]}
    """
    if hasattr(value, "_asdict"):
        return to_jsonable(value._asdict())
    if isinstance(value, Mapping):
        return {str(name): to_jsonable(item) for name, item in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return to_jsonable(value.tolist())
    if isinstance(value, (list, tuple)):
        return [to_jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Write or replace a JSON file atomically."""
    atomic_write(file, dump_json(values))


def dump_json(values: Mapping[str, Any]) -> bytes:
    """Encode values as the content of a JSON file."""
    return (json.dumps(values, indent=2) + "\n").encode()
