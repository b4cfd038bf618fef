"""What a text is like: its words, how much of it repeats, how unlike other text it is.

Letters of this module: S samples, G different grams (strings of one length).
"""

import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

_APOSTROPHES = "'’"


def words(text: str) -> list[str]:
    """The words that lie whole in a text, case-folded, in order.

    A word is a run of letters of any script with their combining marks; an apostrophe inside it
    goes on with it. One that touches an end of the text may have been cut off there, and is left
    out. Case is folded because a word that is new at the start of a sentence is no misspelling:
    that capitals stand where they belong is left to the divergence. Where a script writes no spaces
    a whole clause is one word, and a share of words says little.

    Source: our choice.

    >>> words("land; he didn’t see Ayrton's 2 boats. ‘The boats’ sa")
    ['he', 'didn’t', 'see', "ayrton's", 'boats', 'the', 'boats']
    """
    gaps = {ord(symbol): " " for symbol in set(text) if not _is_of_a_word(symbol)}
    spaced = text.translate(gaps)
    pieces = spaced.casefold().split()
    is_cut_off = [end not in ("", " ") for end in (spaced[:1], spaced[-1:])]
    whole = pieces[is_cut_off[0] : len(pieces) - is_cut_off[1]]
    return [word for word in (piece.strip(_APOSTROPHES) for piece in whole) if word]


def _is_of_a_word(symbol: str) -> bool:
    return symbol in _APOSTROPHES or unicodedata.category(symbol)[0] in "LM"


def compressed_bits(text: str) -> float:
    """What DEFLATE makes of a text by itself, in bits per character.

    At its best level, without header or checksum, on UTF-8. Nothing is read first: after the
    training text a sample would be cheap for being like it, which other measures say, and here the
    question is how much of it follows from the rest of it. In 500 characters a compressor learns
    little more than which are frequent, and its own tables have their price; human text of that
    length bears the same. Of zlib, bz2 and lzma the first spends least on so short a text.

    Source: our choice.

    Args:
      text: at least one character.
    """
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL)
    found = compressor.compress(text.encode("utf-8", "surrogatepass")) + compressor.flush()
    return 8 * len(found) / len(text)


def grams(text: str, length: int) -> list[str]:
    """Every string of so many characters, in order; none of a shorter text.

    >>> grams("abcd", 3)
    ['abc', 'bcd']
    """
    return [text[i : i + length] for i in range(len(text) - length + 1)]


def is_new(items: Sequence[object]) -> list[bool]:
    """Whether each is the first of its kind.

    The share of those that are is distinct-n (Li et al. 2016, A Diversity-Promoting Objective
    Function for Neural Conversation Models; they divide by the number of words).

    >>> is_new("abbac")
    [True, True, False, False, True]
    """
    first: dict[object, int] = {}
    return [first.setdefault(item, place) == place for place, item in enumerate(items)]


def is_repeated(text: str, length: int) -> np.ndarray:
    """Which characters lie in a string of so many that began earlier in the text too.

    The two may overlap: of one character alone, all but the first are repeated.

    >>> is_repeated("to be or not to be", length=5).astype(int)
    array([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    """
    is_again = ~np.array(is_new(grams(text, length)), bool)
    starts = np.flatnonzero(is_again)
    is_covered = np.zeros(len(text), bool)
    for offset in range(length):
        is_covered[starts + offset] = True
    return is_covered


def jensen_shannon_bits(counts_G: np.ndarray, other_G: np.ndarray) -> float:
    """The Jensen-Shannon divergence of two distributions given by their counts, in bits.

        JS(P, Q) = (KL(P || M) + KL(Q || M)) / 2,  M = (P + Q) / 2

    It is 0 for equal distributions and 1 where nothing is in both. Source: Lin 1991, IEEE
    Transactions on Information Theory 37.

    >>> jensen_shannon_bits(np.array([2, 2, 0]), np.array([0, 1, 1]))
    0.5
    """
    p_G, q_G = counts_G / counts_G.sum(), other_G / other_G.sum()
    m_G = (p_G + q_G) / 2
    sides = [x_G[x_G > 0] @ np.log2(x_G[x_G > 0] / m_G[x_G > 0]) for x_G in (p_G, q_G)]
    return float(sum(sides) / 2)


def divergence_shares(samples: Sequence[str], others: Sequence[str], *, length: int) -> np.ndarray:
    """How unlike the strings of so many characters in two sets of texts are, in bits.

    The divergence (`jensen_shannon_bits`) is that of the strings of all samples together. Much of
    it is due to their small number, by which it is too great: of a book, two times 25,000
    characters diverge by 0.23 bits in strings of 4. So only equal amounts compare, and what two
    amounts of human text come to is the floor.

    For an interval, a bootstrap of the pool would not do: one drawn with replacement has fewer
    different strings and diverges by more (0.04 bits for 50 samples of 500 characters). So each
    sample stands for what leaving it out changes:

        share_s = JS - (S - 1) (JS without s - mean over s of JS without s)

    Source: the jackknife's influence values (Efron and Tibshirani 1993, An Introduction to the
    Bootstrap, chapter 11). Over 60 sets of 50 samples from a Markov chain, JS had a standard
    deviation of 0.0036; that of the mean of these shares was 0.0038, a bootstrap of the pool gave
    0.0071.

    Args:
      samples: at least two that have such strings.
      others: as much text.
      length: of a string.

    Returns:
      shares_S in bits, float64; their mean is the divergence.
    """
    counts_by_sample = [Counter(grams(sample, length)) for sample in samples]
    other_counts = Counter(gram for other in others for gram in grams(other, length))
    places: dict[str, int] = {}
    for counts in (other_counts, *counts_by_sample):
        for gram in counts:
            places.setdefault(gram, len(places))
    other_G = _ordered(other_counts, places)
    counts_SG = [_ordered(counts, places) for counts in counts_by_sample]
    pool_G = np.sum(counts_SG, axis=0)
    whole = jensen_shannon_bits(pool_G, other_G)
    without_S = np.array([jensen_shannon_bits(pool_G - x_G, other_G) for x_G in counts_SG])
    return whole - (len(samples) - 1) * (without_S - without_S.mean())


def _ordered(counts: Counter[str], places: dict[str, int]) -> np.ndarray:
    counts_G = np.zeros(len(places))
    counts_G[[places[gram] for gram in counts]] = list(counts.values())
    return counts_G
