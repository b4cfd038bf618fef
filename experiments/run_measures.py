"""Measurements of a trained run that several studies put on record."""

import functools
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from charlm_jax.analysis.effective_context import losses_by_context
from charlm_jax.data.splits import Part
from charlm_jax.evaluation.block_sums import BlockSums, block_sums
from charlm_jax.evaluation.protocol import Sliding, Stream
from charlm_jax.inference.run import Run
from charlm_jax.storage.seal import read_rows
from charlm_jax.storage.workdir import Workdir
from experiments.block_records import WIDE_BLOCK


@functools.cache
def project_commit() -> str:
    """Return the commit of the clone that this file is in; empty if there is none."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        found = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return found.stdout.strip()


def validation_curve(run: Run, characters_per_step: int) -> list[tuple[int, float]]:
    """Return the characters read and the held-out loss in nats per character, at every evaluation.

    Args:
      run: the run; the loss is that of the weights it is loaded with.
      characters_per_step: characters read in one step.
    """
    return [
        (row["step"] * characters_per_step, round(row["loss_nats"], 6))
        for row in read_rows(Workdir(run.workdir))
        if row["split"] == "valid" and row["weights"] == run.weights
    ]


def characters_to_reach(curve: Sequence[tuple[int, float]], loss: float) -> int | None:
    """Return the characters after which a curve is first at most a loss; None if it never is.

    >>> characters_to_reach([(100, 2.0), (200, 1.5), (300, 1.6)], 1.6)
    200

    Args:
      curve: characters read and loss, as of `validation_curve`.
      loss: loss in nats per character.
    """
    return next((characters for characters, found in curve if found <= loss), None)


def attention_reach(run: Run, reach: int) -> int:
    """Return the number of characters that a model looks back, T at most if it has attention.

    Args:
      run: the run.
      reach: number of characters that other models look back.
    """
    return min(reach, run.config.data.sequence_length) if run.model.keeps_positions else reach


def target_places(part: Part, *, reach: int, targets: int) -> np.ndarray:
    """Return the places of the targets of the effective context within a scored part, ascending.

    Args:
      part: the part.
      reach: longest context, in characters.
      targets: number of targets.
    """
    return np.searchsorted(Stream().positions(part), Sliding(reach, targets).positions(part))


def context_sums(
    run: Run, ids_N: np.ndarray, part: Part, *, change: str, reach: int, targets: int
) -> dict[str, BlockSums]:
    """Return losses with all but the nearest n characters changed; attention looks T back.

    Args:
      run: the run.
      ids_N: the text.
      part: part of the text that contains the targets.
      change: one of `charlm_jax.analysis.effective_context.CHANGES`.
      reach: longest context, in characters.
      targets: number of targets.

    Returns:
      n -> losses of the targets, summed over wide blocks.
    """
    places_P = target_places(part, reach=reach, targets=targets)
    nearest = attention_reach(run, reach)
    losses = losses_by_context(
        run.model,
        run.params,
        ids_N,
        part,
        change=change,
        contexts=context_lengths(nearest),
        reach=nearest,
        targets=targets,
        batch_size=run.config.evaluation.batch_size,
    )
    return {str(n): target_sums(nll_P, places_P) for n, nll_P in losses.items()}


def context_lengths(reach: int) -> list[int]:
    """Return the powers of 2 below a context length, and the length itself.

    >>> context_lengths(10)
    [1, 2, 4, 8, 10]
    """
    return [2**power for power in range(reach.bit_length()) if 2**power < reach] + [reach]


def target_sums(nll_P: np.ndarray, places_P: np.ndarray) -> BlockSums:
    """Sum the losses of targets over the wide blocks of the text that they lie in.

    Args:
      nll_P: losses of the targets, in nats.
      places_P: places of the targets within the scored text, ascending.
    """
    nll_N, mask_N = np.zeros(places_P[-1] + 1), np.zeros(places_P[-1] + 1, bool)
    nll_N[places_P], mask_N[places_P] = nll_P, True
    return block_sums([nll_N], mask_N=mask_N, block=WIDE_BLOCK)
