"""Pieces of a text that are shown, chosen by rules that look at no model."""

import numpy as np

from charlm_jax.data.splits import Part, size, target_positions
from charlm_jax.evaluation.protocol import Sliding
from charlm_jax.inference.run import Run

PASSAGE = 1500
"""Characters whose surprise is shown."""

READ_BEFORE = 1000
"""Characters that a model reads before them."""

_PROMPT, _LONGEST_PROMPT = 40, 60


def choose_passage(text: str, part: Part) -> range:
    """About the middle of a part, from a line's start on.

    Args:
      text: the whole text.
      part: which of it.

    Returns:
      The places of at most `PASSAGE` characters of one stretch, each of which has a predictor. They
      begin behind a newline if there is one in as many characters before them.
    """
    middle = size(part) // 2
    for stretch in part:
        if middle < len(stretch):
            break
        middle -= len(stretch)
    stretch = target_positions(stretch)
    latest = max(stretch.start, min(stretch.start + middle, stretch.stop - 1) - PASSAGE // 2)
    newline = text.rfind("\n", max(stretch.start - 1, latest - PASSAGE), latest)
    start = latest if newline < 0 else newline + 1
    return range(start, min(start + PASSAGE, stretch.stop))


def first_words(text: str, part: Part) -> str:
    """Return the first words of a part, about 40 characters, without a word begun before it."""
    start, stop = part[0].start, part[0].stop
    if start > 0 and text[start - 1].isalnum():
        near = range(start, min(start + _PROMPT, stop - 1))
        start = next((n + 1 for n in near if not text[n].isalnum()), start)
    end = min(start + _PROMPT, stop)
    longest = min(start + _LONGEST_PROMPT, stop)
    ends = (n for n in range(end, longest) if not text[n].isalnum())
    return text[start : next(ends, end)]


def passage_nll(run: Run, text: str, passage: range) -> np.ndarray:
    """How surprising each character of a passage is.

    Args:
      run: whose model reads.
      text: the whole text.
      passage: places, from 1 on.

    Returns:
      nll_N in nats, one entry a character; `reads_before` says how they are predicted.
    """
    before = _read_before(run, passage)
    read = text[passage.start - before : passage.stop]
    if run.model.max_length is None:
        return run.score(read).nll_N[before - 1 :]
    return run.score(read, Sliding(before, targets=0)).nll_N


def reads_before(run: Run, passage: range) -> str:
    """What `passage_nll` lets a model read before a character, in words."""
    before = _read_before(run, passage)
    if run.model.max_length is not None:
        return f"the {before:,} characters before it"
    description = f"all before it, from {before:,} characters before the passage on"
    if run.model.keeps_positions:
        description += f", attention keeping the last {run.config.evaluation_context:,}"
    return description


def _read_before(run: Run, passage: range) -> int:
    """Characters before the passage that are read; where places run out, before each character."""
    own = run.config.evaluation_context
    return min(READ_BEFORE if run.model.max_length is None else own, passage.start)
