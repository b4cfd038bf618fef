"""Interpolated Kneser-Ney character n-grams.

Letters of this module: N characters in the text's order, G strings of one length, C of one less.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.limits import require_within
from charlm_jax.core.progress import Report, report_nothing
from charlm_jax.data.splits import Part, size, target_positions

MOST_COUNTED = 2**22
"""Characters that are counted at most, the last of a training part: they take 1.4 GB."""

_SCORED_AT_ONCE = 2**20


class _Level(NamedTuple):
    """The strings of one length k in an n-gram model.

    Attributes:
      codes_G: context * V + last symbol for each string of k symbols, ascending; the context is the
        index of its first k - 1 symbols in the level below.
      own_G: discounted relative frequency of the last symbol, before interpolation.
      backoff_C: weight of the level below after each context.
    """

    codes_G: np.ndarray
    own_G: np.ndarray
    backoff_C: np.ndarray


@dataclasses.dataclass(frozen=True)
class NGram:
    """An interpolated n-gram model.

    Attributes:
      symbols: V, the size of the vocabulary.
      levels: levels from single symbols up to strings of `order`.
    """

    symbols: int
    levels: Sequence[_Level] = dataclasses.field(repr=False)

    @property
    def order(self) -> int:
        """Length of the longest strings; the model reads at most order - 1 characters back."""
        return len(self.levels)

    def nll(self, ids_N: np.ndarray, part: Part) -> np.ndarray:
        """Compute -log p of every target.

        Args:
          ids_N: the whole text, ids in [0, V).
          part: part of the text to score.

        Returns:
          nll_N in nats, float64, one entry per target in the text's order.

        Raises:
          CharlmError: an id is out of range.
        """
        batches = [
            self._nll(ids_N, reads, leads)
            for reads, leads in _reading_batches(map(target_positions, part), self.order - 1)
        ]
        return np.concatenate(batches) if batches else np.empty(0)

    def _nll(self, ids_N: np.ndarray, reads: Sequence[range], leads: Sequence[int]) -> np.ndarray:
        """Return -log p of the targets; the first `leads[i]` characters of read i are context."""
        symbol_N, position_N = join_stretches(ids_N, reads, self.symbols)
        gram_N = np.zeros_like(symbol_N)
        p_N = np.full(len(symbol_N), 1 / self.symbols)
        for length, level in enumerate(self.levels, start=1):
            context_N = _contexts(gram_N, position_N, length)
            code_N = context_N * self.symbols + symbol_N
            gram_N = np.searchsorted(level.codes_G, code_N)
            gram_N[level.codes_G.take(gram_N, mode="clip") != code_N] = -1
            p_N *= np.where(context_N < 0, 1, level.backoff_C[context_N])
            p_N += np.where(gram_N < 0, 0, level.own_G[gram_N])
        is_target_N = position_N >= np.repeat(leads, [*map(len, reads)])
        return -np.log(p_N[is_target_N])


def fit_ngram(ids_N: np.ndarray, train: Part, *, symbols: int, order: int) -> NGram:
    """Fit an interpolated modified Kneser-Ney model.

        p_k(w | h) = (a(h w) - D(a(h w))) / a(h) + rest(h) p_(k-1)(w | h less its first symbol)

    down to p_0 = 1 / V, so that no probability is 0. a is the count of the longest strings; for
    shorter ones it is the number of distinct symbols before them (the start of a stretch counts as
    one more). rest(h) is the mass that the discounts remove. There are three discounts, for a = 1,
    2, and 3 or more, computed from the numbers of strings with a = 1, 2, 3 and 4. If one of the
    first three numbers is 0, or a discount is not positive, they are 0.5, 1 and 1.5. After an
    unseen context, p is that of the shorter one. At the start of a stretch contexts are shorter.

    Args:
      ids_N: the whole text, ids in [0, V).
      train: part of the text to count strings in.
      symbols: V, the size of the vocabulary.
      order: length of the longest strings, from 1.

    Raises:
      CharlmError: no stretch of the part is that long, or an id is out of range.

    Source: Chen and Goodman 1998, "An empirical study of smoothing techniques for language
    modeling", section 3; the fallback is our choice (KenLM has the same).
    """
    return _smoothed(_count(ids_N, train, symbols, order), symbols)


def tuned_ngram(
    ids_N: np.ndarray,
    train: Part,
    *,
    symbols: int,
    orders: Sequence[int] = range(1, 13),
    report: Report = report_nothing,
) -> NGram:
    """Fit an n-gram model of the best order.

    Each order is fitted to the first nine tenths of the training part and scored on the last tenth;
    the best is fitted again to the whole part. Held-out text is not used. Orders above the length
    of the longest stretch of the nine tenths are left out.

    Args:
      ids_N: the whole text, ids in [0, V).
      train: part of the text to count strings in.
      symbols: V, the size of the vocabulary.
      orders: orders to choose from.
      report: callback for the progress of the computation.

    Raises:
      CharlmError: an argument is invalid (see `fit_ngram`).
    """
    if len(orders) == 0:
        raise CharlmError("orders is empty: give at least one length of strings")
    for order in orders:
        require_within("order", order, 1)
    first, last = _cut(train, size(train) * 9 // 10)
    longest = max(map(len, first), default=0)
    orders = [order for order in orders if order <= longest] or [min(orders)]
    report("counting n-grams", 0)
    grams = _count(ids_N, first, symbols, max(orders))

    def loss_nats(order: int) -> float:
        report("fitting n-grams", orders.index(order) / len(orders))
        return float(_smoothed(grams[:order], symbols).nll(ids_N, last).mean())

    return fit_ngram(ids_N, train, symbols=symbols, order=min(orders, key=loss_nats))


class _Grams(NamedTuple):
    """Every string of k symbols in the training text.

    Attributes:
      codes_G: codes of the strings, see `_Level`; below V times the text's length, so none
        overflows.
      counts_G: number of occurrences.
      suffix_G: index of the last k - 1 symbols among the strings of that length.
      opens_G: True if a stretch begins with the string.
    """

    codes_G: np.ndarray
    counts_G: np.ndarray
    suffix_G: np.ndarray
    opens_G: np.ndarray


def _count(ids_N: np.ndarray, train: Part, symbols: int, order: int) -> list[_Grams]:
    """Count the strings of each length from 1 to `order`."""
    require_within("order", order, 1)
    longest = max(map(len, train), default=0)
    if order > longest:
        raise CharlmError(f"order={order}: it must be from 1 to {longest}, the longest stretch")
    symbol_N, position_N = join_stretches(ids_N, train, symbols)
    gram_N, grams = np.zeros_like(symbol_N), []  # the empty string is everywhere
    for length in range(1, order + 1):
        whole = np.flatnonzero(position_N >= length - 1)
        code_N = _contexts(gram_N, position_N, length) * symbols + symbol_N
        codes_G, first_G, gram_of_whole, counts_G = np.unique(
            code_N[whole], return_index=True, return_inverse=True, return_counts=True
        )
        suffix_G = gram_N[whole[first_G]]
        gram_N = np.full_like(symbol_N, -1)
        gram_N[whole] = gram_of_whole
        opens_G = np.zeros(len(codes_G), bool)
        opens_G[gram_N[position_N == length - 1]] = True
        grams.append(_Grams(codes_G, counts_G, suffix_G, opens_G))
    return grams


def _smoothed(grams: Sequence[_Grams], symbols: int) -> NGram:
    levels, contexts = [], 1
    for gram, longer in itertools.zip_longest(grams, grams[1:]):
        count_G = gram.counts_G
        if longer is not None:
            count_G = np.bincount(longer.suffix_G, minlength=len(count_G)) + gram.opens_G
        discount_G = _discounts(count_G)[np.minimum(count_G, 3) - 1]
        context_G = gram.codes_G // symbols
        total_C = np.bincount(context_G, count_G, minlength=contexts)
        taken_C = np.bincount(context_G, discount_G, minlength=contexts)
        # A context seen only at the end of a stretch has no successor: back off completely.
        backoff_C = np.divide(taken_C, total_C, out=np.ones(contexts), where=total_C > 0)
        own_G = (count_G - discount_G) / total_C[context_G]
        levels.append(_Level(gram.codes_G, own_G, backoff_C))
        contexts = len(count_G)
    return NGram(symbols, levels)


def _discounts(count_G: np.ndarray) -> np.ndarray:
    """Return the discounts of counts of 1, of 2, and of 3 or more."""
    n1, n2, n3, n4 = (int(np.sum(count_G == count)) for count in (1, 2, 3, 4))
    if n1 and n2 and n3:
        y = n1 / (n1 + 2 * n2)
        discounts = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
        if min(discounts) > 0:
            return np.array(discounts)
    return np.array([0.5, 1.0, 1.5])


def _contexts(gram_N: np.ndarray, position_N: np.ndarray, length: int) -> np.ndarray:
    """Return the index of the `length` - 1 symbols before each character; -1 if there is none."""
    return np.where(position_N >= length - 1, np.roll(gram_N, 1), -1)


def join_stretches(
    ids_N: np.ndarray, stretches: Iterable[range], symbols: int
) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate the symbols of stretches.

    Args:
      ids_N: the whole text, ids in [0, V).
      stretches: positions to read.
      symbols: V, the size of the vocabulary.

    Returns:
      The symbols, int64, and the position of each within its own stretch, from 0.

    Raises:
      CharlmError: an id is out of range.
    """
    stretches = list(stretches)
    symbol_N = np.concatenate([np.asarray(ids_N[x.start : x.stop], np.int64) for x in stretches])
    check_ids(symbol_N, symbols)
    return symbol_N, np.concatenate([np.arange(len(x)) for x in stretches])


def check_ids(ids_N: np.ndarray, symbols: int) -> None:
    """Refuse ids outside a vocabulary of a given size.

    Raises:
      CharlmError: an id is out of range.
    """
    if ids_N.size and not 0 <= ids_N.min() <= ids_N.max() < symbols:
        raise CharlmError(
            f"the ids go from {ids_N.min()} to {ids_N.max()}: they must lie in [0, {symbols})"
        )


def _reading_batches(
    targets: Iterable[range], back: int
) -> Iterator[tuple[list[range], list[int]]]:
    """Yield what is read to score stretches, and how much of each is read before its targets.

    Stretches are cut, and joined, to batches of bounded size; `back` characters before a target
    determine its loss.
    """
    reads: list[range] = []
    leads: list[int] = []
    characters = 0
    for stretch in targets:
        for start in range(stretch.start, stretch.stop, _SCORED_AT_ONCE):
            first = max(stretch.start - 1, start - max(back, 1))
            reads.append(range(first, min(start + _SCORED_AT_ONCE, stretch.stop)))
            leads.append(start - first)
            characters += len(reads[-1])
            if characters >= _SCORED_AT_ONCE:
                yield reads, leads
                reads, leads, characters = [], [], 0
    if reads:
        yield reads, leads


def last_characters(part: Part, most: int = MOST_COUNTED) -> Part:
    """Return the last characters of a part; the part itself if it has no more."""
    return _cut(part, size(part) - most)[1] if size(part) > most else part


def _cut(part: Part, characters: int) -> tuple[Part, Part]:
    """Split a part after a given number of characters."""
    first, rest = [], []
    for stretch in part:
        middle = stretch.start + min(characters, len(stretch))
        first.append(range(stretch.start, middle))
        rest.append(range(middle, stretch.stop))
        characters -= middle - stretch.start
    return tuple(filter(len, first)), tuple(filter(len, rest))
