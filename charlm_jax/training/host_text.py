"""Batches of a text that stays on the host, because it is too large for the devices.

The rows of a dispatch are gathered into a small text of their own, with a plan that says where they
start in it. The devices then run the program that they run for a text of their own, and compute the
same bits.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from charlm_jax.data.loaders import EpochPlan


class DispatchText(NamedTuple):
    """Rows of a dispatch.

    Attributes:
      ids_N: the rows, one after the other.
      plan: plan of the dispatch's steps, as of an epoch of `most_steps` steps.
    """

    ids_N: np.ndarray
    plan: EpochPlan


def gather_steps(
    ids_N: np.ndarray,
    plan: EpochPlan,
    batch_index: int,
    count: int,
    *,
    sequence_length: int,
    most_steps: int,
) -> DispatchText:
    """Gather the rows of several steps.

    Args:
      ids_N: the whole text, perhaps memory-mapped.
      plan: plan of the epoch, or of a block of it.
      batch_index: index of the first step in the plan.
      count: number of steps.
      sequence_length: T.
      most_steps: number of steps of the result, which is filled up to it: one program serves all.
    """
    starts_EB, mask_EB, fresh_EB = (
        np.asarray(x_EB)[batch_index : batch_index + count] for x_EB in plan
    )
    rows, length = starts_EB.shape[1], sequence_length + 1
    text = np.zeros((most_steps, rows, length), ids_N.dtype)
    text[:count] = ids_N[starts_EB[:, :, None].astype(np.int64) + np.arange(length)]
    own_starts = np.arange(most_steps * rows, dtype=np.int32) * np.int32(length)
    padding = ((0, most_steps - count), (0, 0))
    return DispatchText(
        text.reshape(-1),
        EpochPlan(
            jnp.asarray(own_starts.reshape(most_steps, rows)),
            jnp.asarray(np.pad(mask_EB, padding)),
            jnp.asarray(np.pad(fresh_EB, padding)),
        ),
    )


class Prefetcher:
    """Reader of a text that gathers the rows of the next dispatch while one is running."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: tuple[tuple[int, int], Future[DispatchText]] | None = None

    def take(
        self,
        gather: Callable[[int, int], DispatchText],
        here: tuple[int, int],
        ahead: tuple[int, int] | None,
    ) -> DispatchText:
        """Return the rows of a dispatch, and begin to gather those of the next.

        Args:
          gather: (step, count) -> rows.
          here: first step and number of steps of this dispatch.
          ahead: those of the next, if it is known; another dispatch may follow nevertheless.
        """
        before, self._ahead = self._ahead, None
        rows = before[1].result() if before and before[0] == here else gather(*here)
        if ahead is not None:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
            self._ahead = ahead, self._pool.submit(gather, *ahead)
        return rows
