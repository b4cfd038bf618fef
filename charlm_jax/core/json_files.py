"""Values in JSON's terms."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from charlm_jax.core.files import atomic_write


def to_jsonable(value: Any) -> Any:
    """Named tuples as objects, arrays and tuples as lists, null for a number that is not finite.

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
    """Replace a JSON file as a whole."""
    atomic_write(file, dump_json(values))


def dump_json(values: Mapping[str, Any]) -> bytes:
    """The content of a JSON file."""
    return (json.dumps(values, indent=2) + "\n").encode()
