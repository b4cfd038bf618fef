"""Splits of a text into training and held-out parts."""

import itertools
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import NamedTuple

from charlm_jax.core.errors import CharlmError, lookup

Part = tuple[range, ...]
"""Positions of a part of the text: non-adjacent stretches in text order."""

Parts = Mapping[str, Part]
"""Parts by name: `train`, and `valid` and `test` if text is held out."""


class SplitRule(NamedTuple):
    """Rule for splitting a text; `configs/base.py` documents each value.

    `counts` has the sizes of train, valid and test, None for the rest; it is empty for fractions.
    `part_starts` has the position at which the file of each part begins, under `files`.
    """

    kind: str
    valid_fraction: float
    test_fraction: float
    counts: tuple[int | None, ...]
    blocks: int
    guard: int
    rounding: str
    part_starts: Mapping[str, int]


def exact_fraction(value: float) -> Fraction:
    """Return a number as the decimal that it is written as.

    >>> exact_fraction(0.05), 1 - 0.05 - 0.05
    (Fraction(1, 20), 0.8999999999999999)
    """
    return Fraction(repr(value))


_ROUNDINGS: Mapping[str, Callable[[float], float | Fraction]] = {
    "exact": exact_fraction,
    "float": float,
}


def _fractions(rule: SplitRule) -> tuple[float | Fraction, float | Fraction]:
    """Return the fractions of valid and test, in numbers whose products are rounded down."""
    number = lookup(_ROUNDINGS, rule.rounding, "config.split.rounding")
    return number(rule.valid_fraction), number(rule.test_fraction)


def _tail(characters: int, rule: SplitRule) -> Parts:
    valid, test = _fractions(rule)
    train_end = int(characters * (1 - valid - test))
    valid_end = int(characters * (1 - test))
    parts = {
        "train": range(0, train_end),
        "valid": range(train_end, valid_end),
        "test": range(valid_end, characters),
    }
    return {name: (part,) for name, part in parts.items() if name != "test" or test}


def _interleaved(characters: int, rule: SplitRule) -> Parts:
    valid, test = _fractions(rule)
    fractions = {"valid": valid} | ({"test": test} if test else {})
    held_out: dict[str, list[range]] = {name: [] for name in fractions}
    train, train_start = [], 0
    for block in range(rule.blocks):
        start = block * characters // rule.blocks
        length = (block + 1) * characters // rule.blocks - start
        sizes = {name: int(length * fraction) for name, fraction in fractions.items()}
        around = length - sum(sizes.values()) - rule.guard * (len(sizes) + 1)
        position = start + around // 2
        train.append(range(train_start, position))
        for name, size in sizes.items():
            held_out[name].append(range(position + rule.guard, position + rule.guard + size))
            position += rule.guard + size
        train_start = position + rule.guard
    train.append(range(train_start, characters))
    return {"train": tuple(train)} | {name: tuple(part) for name, part in held_out.items()}


def _counted(characters: int, rule: SplitRule) -> Parts:
    given = sum(count for count in rule.counts if count is not None)
    rest, has_rest = characters - given, None in rule.counts
    if rest < 0 or (has_rest and not rest):
        raise CharlmError(
            f"the text is too short: {characters:,} characters, and config.split.counts takes "
            f"{given:,}{' and a rest' if has_rest else ''}: use a longer text or smaller counts"
        )
    if rest and not has_rest:
        raise CharlmError(
            f"config.split.counts adds up to {given:,} characters of the text's {characters:,}: "
            f"write rest for one of the counts, or give the other {rest:,} to one"
        )
    counts = (rest if count is None else count for count in rule.counts)
    stretches = itertools.starmap(
        range, itertools.pairwise(itertools.accumulate(counts, initial=0))
    )
    names = ("train", "valid", "test")
    return {name: (stretch,) for name, stretch in zip(names, stretches, strict=False)}


def _files(characters: int, rule: SplitRule) -> Parts:
    # The first character of a file has nothing before it: it predicts and is not predicted.
    starts = rule.part_starts
    ends = [*starts.values(), characters][1:]
    return {
        name: (range(start if name == "train" else start + 1, end),)
        for (name, start), end in zip(starts.items(), ends, strict=True)
    }


_FIELDS = ("valid_fraction", "test_fraction", "rounding", "blocks", "guard")

_READ: Mapping[str, tuple[str, ...]] = {
    "tail": _FIELDS[:3],
    "interleaved": _FIELDS,
    "files": (),
    "none": (),
}


def unread_fields(kind: str, *, has_counts: bool) -> frozenset[str]:
    """Return the fields of a split that do not bear on its parts.

    >>> sorted(unread_fields("tail", has_counts=False))
    ['blocks', 'guard']
    """
    return frozenset(_FIELDS).difference(() if has_counts else _READ.get(kind, _FIELDS))


_SPLITS: Mapping[str, Callable[[int, SplitRule], Parts]] = {
    "tail": _tail,
    "interleaved": _interleaved,
    "files": _files,
    "none": lambda characters, rule: {"train": (range(0, characters),)},
}


def split_text(characters: int, rule: SplitRule, *, sequence_length: int) -> Parts:
    """Split a text into named parts.

    `tail` is train, valid and, if `test_fraction` > 0, test, in that order; `counts` gives their
    sizes instead of fractions, and must add up to the text. `interleaved` cuts the
    text into `blocks` equal sections and holds out the middle of each; `guard` characters on either
    side of a held-out stretch belong to no part. `files` keeps the files of a text's parts apart.
    `none` trains on the whole text. Numbers of
    characters are rounded down: exactly, or in floating point as earlier versions did.

    Args:
      characters: length of the text.
      rule: splitting rule.
      sequence_length: T; one stretch of training text must have at least T + 1 characters.

    Returns:
      Part name -> its stretches. The first character of a held-out stretch is predicted from the
      one before the stretch, so N characters have N targets. Under `files` the stretch begins with
      the second character of its file, so that it is predicted from the first.

    Raises:
      CharlmError: the text is too short; the message gives a length that would do, for fractions.
    """
    cut = lookup(_SPLITS, rule.kind, "config.split.kind")
    cut = _counted if rule.counts else cut

    def fits(length: int) -> bool:
        # A range that runs backwards has length 0.
        train, *held_out = cut(length, rule).values()
        return any(len(r) > sequence_length for r in train) and all(
            len(stretch) > 0 for part in (train, *held_out) for stretch in part
        )

    if fits(characters):
        return cut(characters, rule)
    parts = ", ".join(f"{size(part)} {name}" for name, part in cut(characters, rule).items())
    if rule.counts or rule.kind == "files":
        raise CharlmError(
            f"a part is too short: {parts}, but config.data.sequence_length={sequence_length} "
            f"needs {sequence_length + 1} for training, and any other part 1: give it more text, "
            f"or use a shorter length"
        )
    is_cut_up = rule.kind == "interleaved"
    smallest = _smallest(fits, sequence_length + 1)
    longer = (
        "no text is long enough: use "
        if smallest is None
        else f"a text of {smallest} characters would do, or "
    )
    raise CharlmError(
        f"the text is too short: {characters} characters, split into {parts}, but "
        f"config.data.sequence_length={sequence_length} needs {sequence_length + 1} for training, "
        f"and any other part 1: {longer}a shorter length"
        + (", fewer config.split.blocks or a smaller config.split.guard" if is_cut_up else "")
    )


def size(part: Part) -> int:
    """Return the number of characters in a part."""
    return sum(map(len, part))


def thin(part: Part, *, most: int, stretches: int = 100) -> Part:
    """Return evenly spread stretches of a part, of at most `most` characters together.

    Args:
      part: part of a text.
      most: largest number of characters.
      stretches: number of stretches, all equally long; one more for each border of the part's own
        stretches that lies in one.

    Returns:
      The middle of each equal share of the part; the part itself if it is no longer.

    >>> thin((range(10, 30),), most=5, stretches=2)
    (range(14, 16), range(24, 26))
    """
    characters = size(part)
    if characters <= most:
        return part
    each, chosen = most // stretches, []
    for number in range(stretches):
        first = (2 * number + 1) * characters // (2 * stretches) - each // 2
        chosen += _at(part, range(first, first + each))
    return tuple(chosen)


def _at(part: Part, places: range) -> list[range]:
    """Return the stretches of a part that have the given places in it."""
    before, found = 0, []
    for stretch in part:
        start, stop = (stretch.start + place - before for place in (places.start, places.stop))
        inside = range(max(start, stretch.start), min(stop, stretch.stop))
        found += [inside] if inside else []
        before += len(stretch)
    return found


def target_positions(stretch: range) -> range:
    """Return the predicted positions of a stretch: all but the first of a text.

    >>> target_positions(range(0, 5)), target_positions(range(5, 9))
    (range(1, 5), range(5, 9))
    """
    return range(max(stretch.start, 1), stretch.stop)


def _smallest(fits: Callable[[int], bool], length: int) -> int | None:
    """Return a length that fits, with one below it that does not; None if there is none."""
    high = length
    while not fits(high):
        high *= 2
        if high > 2**40:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
