"""How often equal groups are said to differ: `python -m tests.evaluation.family_rates`.

Letters: A groups, S runs of a group, K blocks. Eight groups have the same true loss. A block's mean
loss has a difficulty that all groups share, a part of each group, and a part of each run's seed,
which is the same in all blocks and in both parts of the text.
"""

import argparse
from collections.abc import Iterator

import numpy as np

from charlm_jax.evaluation.block_sums import BLOCK, BlockSums, subtract_runs
from charlm_jax.evaluation.bootstrap import Difference, difference, mean_interval
from charlm_jax.evaluation.families import compare_with_best

GROUPS, BLOCKS = 8, 112
SHARED, OF_GROUP, OF_SEED = 0.08, 0.02, 0.005  # standard deviations, in nats

# How the best was chosen, and whether the choice counts as independent of the losses.
CASES = (
    ("first", True),
    ("second part", True),
    ("second part", False),
    ("same part", False),
)


def texts(
    runs: int, texts: int, *, of_seed: float | np.ndarray, shared_seeds: float
) -> Iterator[tuple[list[BlockSums], np.ndarray]]:
    """Yield the losses of equal groups on a text, and their mean losses on another."""
    generator = np.random.default_rng(0)
    counts_K = np.full(BLOCKS, BLOCK)

    def part_ASK(seeds_AS1: np.ndarray) -> np.ndarray:
        of_group_A1K = OF_GROUP * generator.normal(size=(GROUPS, 1, BLOCKS))
        return 1.5 + SHARED * generator.normal(size=BLOCKS) + of_group_A1K + seeds_AS1

    for _ in range(texts):
        own, shared = (generator.normal(size=(n, runs, 1)) for n in (GROUPS, 1))
        seeds_AS1 = of_seed * (np.sqrt(1 - shared_seeds) * own + np.sqrt(shared_seeds) * shared)
        part, other = part_ASK(seeds_AS1), part_ASK(seeds_AS1)
        yield [BlockSums(BLOCK * x, counts_K) for x in part], other.mean(axis=(1, 2))


def one_by_one(
    groups: list[BlockSums], best: int, *, is_paired_by_run: bool, draws: int, seed: int
) -> list[Difference]:
    """The differences from the best, each with the interval that it has alone."""

    def minus_best(group: BlockSums) -> Difference:
        if is_paired_by_run:
            subtracted = subtract_runs(group, groups[best])
            return Difference(*mean_interval(subtracted, draws=draws, seed=seed))
        return difference(group, groups[best], draws=draws, seed=seed)

    return [minus_best(group) for index, group in enumerate(groups) if index != best]


def rates(
    runs: int,
    *,
    repetitions: int,
    is_paired_by_run: bool = False,
    of_seed: float | np.ndarray = OF_SEED,
    shared_seeds: float = 0.0,
    draws: int = 1000,
    cases: tuple[tuple[str, bool], ...] = CASES,
) -> dict[tuple[str, bool | None], tuple[float, float, float]]:
    """The shares of texts on which equal groups are said to differ, by case.

    They are those on which the best is called better than all, better than at least one, and either
    by Holm's p-values of 5 %; None in place of independence stands for intervals one by one. Seeds
    have no effect if there is one run, since its intervals are about the text only.
    """
    found: dict[tuple[str, bool | None], list[tuple[bool, bool, bool]]] = {}
    effect = of_seed if runs > 1 else 0.0
    samples = texts(runs, repetitions, of_seed=effect, shared_seeds=shared_seeds)
    for seed, (groups, other_A) in enumerate(samples):
        chosen = {
            "first": 0,
            "second part": int(np.argmin(other_A)),
            "same part": int(np.argmin([group.mean for group in groups])),
        }
        for choice, is_independent in cases:
            comparison = compare_with_best(
                groups,
                best=chosen[choice],
                is_choice_independent=is_independent,
                is_paired_by_run=is_paired_by_run,
                draws=draws,
                seed=seed,
            )
            pairs = zip(comparison.differences, comparison.p_values, strict=True)
            by_p = any(x and p is not None and x.mean > 0 and p < 0.05 for x, p in pairs)
            is_any = len(comparison.as_good) < GROUPS
            found.setdefault((choice, is_independent), []).append(
                (comparison.is_best, is_any, by_p)
            )
        for choice in dict.fromkeys(choice for choice, _ in cases):
            alone = one_by_one(
                groups, chosen[choice], is_paired_by_run=is_paired_by_run, draws=draws, seed=seed
            )
            above = [x.low > 0 for x in alone]
            found.setdefault((choice, None), []).append((all(above), any(above), any(above)))
    return {case: tuple(np.mean(x, axis=0).tolist()) for case, x in found.items()}


def main() -> None:
    """Print the rates by number of runs, without and with pairing by run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--paired", action="store_true", help="share half of the seeds' variance")
    parser.add_argument("--unequal", action="store_true", help="vary one group's seeds four times")
    parser.add_argument("--runs", type=int, nargs="+", default=(1, 2, 3))
    options = parser.parse_args()
    of_seed = np.array([[[0.016]]] + [[[0.004]]] * (GROUPS - 1)) if options.unequal else OF_SEED
    for runs in options.runs:
        found = rates(
            runs,
            repetitions=options.repetitions,
            is_paired_by_run=options.paired,
            of_seed=of_seed,
            shared_seeds=0.5 * options.paired,
        )
        for (choice, is_independent), (best, any_worse, by_p) in found.items():
            family = {True: "from the best", False: "all pairs", None: "one by one"}[is_independent]
            print(
                f"{runs} runs, best by {choice:11}, {family:13}: better than all "
                f"{best:6.1%}, than any {any_worse:6.1%}, by p-values {by_p:6.1%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
