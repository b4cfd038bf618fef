"""Sessions of a run: each call that trained it, with what it started from."""

from collections.abc import Mapping
from typing import Any


def sessions_until(facts: Mapping[str, Any], step: int) -> list[dict[str, Any]]:
    """Return the recorded sessions that made a run's steps up to one; others saved none of them.

    Args:
      facts: content of run.json.
      step: number of steps.
    """
    return [session for session in facts.get("sessions", []) if session["from_step"] < step]
