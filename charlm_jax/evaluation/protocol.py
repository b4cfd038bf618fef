"""Evaluation protocols: which characters are scored, and what the model reads before each.

A loss depends on the protocol under which it was measured, so the protocol has a name:

    Window(40)          consecutive windows of 40 targets, each read from the initial state
    Sliding(40, 9_000)  9,000 targets, each predicted from exactly the 40 characters before it
    Stream()            each stretch of the part read once, the state carried through it

Under `Window` and `Stream` a part of several stretches is scored stretch by stretch; of the text
before a stretch only one character is read, the predictor of its first. The first character of a
text has no predictor and is not scored. Under `Sliding`, neither are characters with fewer than
`context` before them. Nothing is read across the beginning of a part that is a file.
"""

import bisect
import dataclasses
import itertools
from typing import ClassVar

import numpy as np

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.limits import MAX_INT32, require_within
from charlm_jax.data.splits import Part, target_positions

MODES = ("window", "sliding", "stream")
SLIDING_TARGETS = 10_000
"""Default number of targets of `Sliding`: its cost grows with them."""


@dataclasses.dataclass(frozen=True)
class Window:
    """Consecutive windows of `context` targets.

    The model starts each window from its initial state, at the character before the first target.
    Target p of a window (1 .. context) is predicted from p characters.

    Attributes:
      context: number of targets in a window, from 1.
    """

    mode: ClassVar[str] = "window"
    targets: ClassVar[None] = None
    read_before: ClassVar[int] = 0
    context: int

    def __post_init__(self) -> None:
        _store_whole(self, "context", least=1)

    def __str__(self) -> str:
        """Describe the protocol.

        >>> print(Window(1_000))
        window of 1,000
        """
        return f"window of {self.context:,}"

    @property
    def file_part(self) -> str:
        """Part of a file name, unique to the protocol."""
        return f"window_{self.context}"

    def positions(self, part: Part) -> np.ndarray:
        """Return the positions in the text of the characters that are scored, in order."""
        return all_positions(part)

    def read_stretches(self, part: Part) -> Part:
        """Return the targets that are read in one go, stretch by stretch."""
        return tuple(
            range(start, min(start + self.context, targets.stop))
            for targets in map(target_positions, part)
            for start in range(targets.start, targets.stop, self.context)
        )

    def longest_read(self, part: Part) -> int:
        """Return the largest number of characters that the model reads from its initial state."""
        return min(self.context, max(map(len, map(target_positions, part))))

    def spread(self, part: Part, *, most: int) -> Part:
        """Return a part's windows, thinned evenly to at most `most` characters.

        A window that is kept is one of the whole part's, so its characters have the losses that
        they have there.

        Args:
          part: part of the text.
          most: largest number of characters; 0 for no limit.

        Returns:
          The middle window of each equal share of the part; the part itself if it is no longer.

        >>> Window(2).spread((range(1, 13),), most=5)
        (range(3, 5), range(9, 11))
        """
        if most == 0 or sum(map(len, map(target_positions, part))) <= most:
            return part
        stretches = [*map(target_positions, part)]
        windows = [-(-len(stretch) // self.context) for stretch in stretches]
        before, count = [*itertools.accumulate(windows, initial=0)], max(1, most // self.context)
        chosen = []
        for n in range(count):
            number = (2 * n + 1) * before[-1] // (2 * count)
            index = bisect.bisect_right(before, number) - 1
            first = (number - before[index]) * self.context
            chosen.append(stretches[index][first : first + self.context][:most])
        return tuple(chosen)


@dataclasses.dataclass(frozen=True)
class Sliding:
    """Targets spread evenly over the part, each predicted from the same number of characters.

    The model reads exactly `context` characters before a target, from its initial state. That is
    `context` times the work of a window, so the protocol limits the number of targets. The
    characters that are read may lie before the part.

    Attributes:
      context: number of characters read before each target, from 1.
      targets: number of targets; 0 means every character with enough text before it.
    """

    mode: ClassVar[str] = "sliding"
    context: int
    targets: int = SLIDING_TARGETS

    def __post_init__(self) -> None:
        _store_whole(self, "context", least=1)
        _store_whole(self, "targets", least=0)

    def __str__(self) -> str:
        """Describe the protocol.

        >>> print(Sliding(40))
        sliding window of 40
        """
        return f"sliding window of {self.context:,}"

    @property
    def read_before(self) -> int:
        """Characters that each target needs before it; other protocols begin with the part."""
        return self.context

    @property
    def file_part(self) -> str:
        """Part of a file name, unique to the protocol."""
        return f"sliding_{self.context}_at_{self.targets or 'all'}"

    def positions(self, part: Part) -> np.ndarray:
        """Return the positions that are scored: the middle of each equal share of the part.

        If enough text precedes the part, they depend only on the part and `targets`, so that
        models and contexts are compared on the same characters.

        Raises:
          CharlmError: no character of the part has `context` characters before it.
        """
        positions_N = all_positions(part)
        positions_N = positions_N[positions_N >= self.context]
        size = len(positions_N)
        if not size:
            raise CharlmError(
                f"context={self.context} is too long: no character has that many before it"
            )
        count = min(self.targets or size, size)
        return positions_N[(2 * np.arange(count) + 1) * size // (2 * count)]

    def read_stretches(self, part: Part) -> Part:
        """Return the stretches over which a predictor without a context limit reads."""
        return part

    def longest_read(self, part: Part) -> int:
        """Return the largest number of characters that the model reads from its initial state."""
        return self.context


@dataclasses.dataclass(frozen=True)
class Stream:
    """The whole part read once, the state carried from the first character of a stretch to its end.

    Every stretch is read from the initial state.

    Attributes:
      context: number of past positions that attention keeps; that of the run's validation if None.
        A model without attention needs no context: its state depends on everything it has read.
    """

    mode: ClassVar[str] = "stream"
    targets: ClassVar[None] = None
    read_before: ClassVar[int] = 0
    context: int | None = None

    def __post_init__(self) -> None:
        if self.context is not None:
            _store_whole(self, "context", least=1)

    def __str__(self) -> str:
        """Describe the protocol.

        >>> print(Stream(), Stream(40), sep=", ")
        stream, stream with attention to the last 40
        """
        return "stream" + (f" with attention to the last {self.context:,}" if self.context else "")

    @property
    def file_part(self) -> str:
        """Part of a file name, unique to the protocol."""
        return "stream" + (f"_{self.context}" if self.context else "")

    def positions(self, part: Part) -> np.ndarray:
        """Return the positions in the text of the characters that are scored, in order."""
        return all_positions(part)

    def read_stretches(self, part: Part) -> Part:
        """Return the targets that are read in one go, stretch by stretch."""
        return part

    def longest_read(self, part: Part) -> int:
        """Return the largest number of characters that the model reads from its initial state."""
        return max(map(len, map(target_positions, part)))


EvalProtocol = Window | Sliding | Stream


def check_protocol(protocol: object) -> None:
    """Refuse anything but an evaluation protocol.

    Raises:
      CharlmError: the value is something else.
    """
    if not isinstance(protocol, EvalProtocol):
        raise CharlmError(
            f"protocol={protocol!r} is not an evaluation protocol: it must be Window(context), "
            f"Sliding(context, targets) or Stream()"
        )


def _store_whole(protocol: EvalProtocol, name: str, *, least: int) -> None:
    """Check a field, and store it as a Python integer, which JSON can represent."""
    value = getattr(protocol, name)
    require_within(name, value, least, MAX_INT32)
    object.__setattr__(protocol, name, int(value))


def all_positions(part: Part) -> np.ndarray:
    """Return the positions of all characters of a part that have a predictor, in order."""
    return np.concatenate([np.arange(x.start, x.stop) for x in map(target_positions, part)])


def build_protocol(
    mode: str, *, context: int | None, targets: int | None = SLIDING_TARGETS
) -> EvalProtocol:
    """Build the protocol named by flags or by a saved evaluation.

    Args:
      mode: `window`, `sliding` or `stream`.
      context: the protocol's context; may be None only for `stream`.
      targets: number of targets, used only by `sliding`.

    Raises:
      CharlmError: the mode is unknown, or a number is missing or out of range.

    >>> build_protocol("sliding", context=40, targets=9)
    Sliding(context=40, targets=9)
    """
    if mode == "stream":
        return Stream(context)
    if mode not in MODES:
        known = f"{', '.join(MODES[:-1])} or {MODES[-1]}"
        raise CharlmError(f"mode={mode!r} is not known: it must be {known}")
    if context is None:
        raise CharlmError(f"mode={mode} needs a context: give a number of characters")
    if mode == "window":
        return Window(context)
    return Sliding(context, SLIDING_TARGETS if targets is None else targets)
