"""Values in JSON's terms."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """Named tuples as objects, arrays and tuples as lists, null for a number that is not finite.

    >>> plain({"scales": (0.5, np.float32(2.0), math.inf)})
    {'scales': [0.5, 2.0, None]}
    """
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
