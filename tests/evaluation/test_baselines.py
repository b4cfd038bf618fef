"""What simple predictors pay is what their formulas say, for every place of every stretch."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm_jax.core.errors import CharlmError
from charlm_jax.data.splits import Part, SplitRule, size, split_text, target_positions
from charlm_jax.data.synthetic import ALPHABET, SyntheticSource
from charlm_jax.evaluation.baselines import compressed_bits_per_char, uniform_nll, unigram_nll
from charlm_jax.evaluation.ngram import NGram, fit_ngram, last_characters, tuned_ngram
from tests.conftest import examples


def _ids(text: str) -> np.ndarray:
    return np.array(["abc".index(symbol) for symbol in text], np.uint8)


def _whole(ids_N: np.ndarray) -> Part:
    return (range(len(ids_N)),)


def _probabilities(model: NGram, context: list[int]) -> np.ndarray:
    """The chance of every symbol after a context."""
    texts = [np.array([*context, symbol], np.uint8) for symbol in range(model.symbols)]
    return np.array([math.exp(-model.nll(text, _whole(text))[-1]) for text in texts])


class _Naive:
    """Interpolated modified Kneser-Ney by dictionaries and recursion, from the paper's formulas."""

    def __init__(self, ids_N: np.ndarray, train: Part, symbols: int, order: int) -> None:
        self.symbols, self.tables = symbols, {}
        texts = [("start", *ids_N[stretch.start : stretch.stop].tolist()) for stretch in train]
        for length in range(1, order + 1):
            left = defaultdict(list)
            for text in texts:
                for end in range(length + 1, len(text) + 1):
                    left[text[end - length : end]].append(text[end - length - 1])
            top = length == order
            counts = {gram: len(x) if top else len(set(x)) for gram, x in left.items()}
            self.tables[length] = counts, self._discounts(Counter(counts.values()))

    @staticmethod
    def _discounts(n: Counter) -> list[float]:
        if n[1] * n[2] * n[3] == 0:
            return [0, 0.5, 1.0, 1.5]
        y = n[1] / (n[1] + 2 * n[2])
        discounts = [0, *(k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3))]
        return discounts if min(discounts[1:]) > 0 else [0, 0.5, 1.0, 1.5]

    def p(self, context: tuple[int, ...], symbol: int, length: int) -> float:
        if length == 0:
            return 1 / self.symbols
        counts, discounts = self.tables[length]
        here = context[len(context) - length + 1 :]
        after = [counts.get((*here, other), 0) for other in range(self.symbols)]
        lower = self.p(context, symbol, length - 1)
        if not sum(after):
            return lower
        rest = sum(discounts[min(count, 3)] for count in after) / sum(after)
        own = after[symbol] - discounts[min(after[symbol], 3)]
        return own / sum(after) + rest * lower

    def nll(self, ids_N: np.ndarray, part: Part) -> np.ndarray:
        nll = []
        for stretch in map(target_positions, part):
            for place in stretch:
                context = tuple(ids_N[stretch.start - 1 : place].tolist())
                length = min(len(context) + 1, max(self.tables))
                nll.append(-math.log(self.p(context, int(ids_N[place]), length)))
        return np.array(nll)


@st.composite
def _stretches(draw: st.DrawFn, characters: int) -> Part:
    cuts = sorted(draw(st.sets(st.integers(0, characters), min_size=2, max_size=8)))
    return tuple(range(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=False))


@pytest.mark.core
@given(st.data())
@examples(1.5)
def test_the_ngram_equals_dictionaries_and_recursion(data: st.DataObject) -> None:
    symbols, order = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    characters = data.draw(st.sampled_from([12, 60, 400]))
    generator = np.random.default_rng(data.draw(st.integers(0, 99)))
    ids_N = (symbols * generator.random(characters) ** 2).astype(np.uint8)
    train, part = data.draw(_stretches(characters)), data.draw(_stretches(characters))
    order = min(order, max(map(len, train)))
    model = fit_ngram(ids_N, train, symbols=symbols, order=order)
    expected = _Naive(ids_N, train, symbols, order).nll(ids_N, part)
    np.testing.assert_allclose(model.nll(ids_N, part), expected, rtol=1e-9)


@pytest.mark.core
def test_two_symbols_by_hand() -> None:
    """The text aabab, of the symbols a, b and c.

    Different symbols before a: the beginning, a and b, so 3; before b: a, so 1. Of the counts of
    counts n2 = 0, so a count of 1 loses 0.5 and one of 3 loses 1.5, and 2 of 4 are left:
    p(a) = 1.5/4 + 2/4 x 1/3 = 13/24, p(b) = 0.5/4 + 1/6 = 7/24, p(c) = 4/24.

    Pairs: aa 1, ab 2, ba 1. Here n3 = 0, so a count of 2 loses 1. After a, (0.5 + 1)/3 = 1/2 is
    left: p(a|a) = 0.5/3 + 13/48, p(b|a) = 1/3 + 7/48, p(c|a) = 4/48. After b, 1/2 is left:
    p(a|b) = 1/2 + 13/48 and so on. After c nothing was seen: p(a|c) = p(a).
    """
    model = fit_ngram(_ids("aabab"), (range(5),), symbols=3, order=2)
    expected = {
        0: [0.5 / 3 + 13 / 48, 1 / 3 + 7 / 48, 4 / 48],
        1: [1 / 2 + 13 / 48, 7 / 48, 4 / 48],
        2: [13 / 24, 7 / 24, 4 / 24],
    }
    for context, p_V in expected.items():
        np.testing.assert_allclose(_probabilities(model, [context]), p_V, rtol=1e-12)


def test_discounts_by_hand() -> None:
    """Counts 1, 1, 1, 1, 2, 2, 3 and 4: Y = 4/8, so D is 0.5, 1.25 and 3 - 4/2 x 1/1 = 1.

    They leave 4 x 0.5 + 2 x 1.25 + 2 x 1 = 6.5 of 15 to the ninth, unseen symbol and the others.
    """
    ids_N = np.repeat(np.arange(8), [1, 1, 1, 1, 2, 2, 3, 4])
    model = fit_ngram(ids_N, _whole(ids_N), symbols=9, order=1)
    left = [0.5, 0.5, 0.5, 0.5, 0.75, 0.75, 2, 3, 0]
    expected = [own / 15 + 6.5 / 15 / 9 for own in left]
    np.testing.assert_allclose(_probabilities(model, [0]), expected, rtol=1e-12)


@pytest.mark.core
@pytest.mark.parametrize("order", [1, 2, 3, 5, 9])
def test_probabilities_sum_to_one_after_any_context(order: int) -> None:
    generator = np.random.default_rng(order)
    ids_N = np.minimum(generator.geometric(0.4, 600) - 1, 6)  # the eighth symbol is never seen
    model = fit_ngram(ids_N, (range(0, 300), range(310, 600)), symbols=8, order=order)
    assert model.order == order
    seen = [ids_N[start : start + 10].tolist() for start in (0, 295, 305, 590)]
    unseen = generator.integers(0, 8, (6, 10)).tolist()
    for context in [*seen, *unseen, [7], [0, 7, 0]]:
        p_V = _probabilities(model, context)
        assert p_V.min() > 0 and p_V.sum() == pytest.approx(1, abs=1e-12)


def test_nothing_is_read_beyond_one_character_before_a_stretch() -> None:
    generator = np.random.default_rng(0)
    ids_N = generator.integers(0, 4, 200)
    model = fit_ngram(ids_N, (range(0, 150),), symbols=4, order=4)
    part = (range(20, 30), range(100, 110))
    nll_N, changed_N = model.nll(ids_N, part), ids_N.copy()
    changed_N[:19], changed_N[30:99], changed_N[110:] = 0, 1, 2
    np.testing.assert_array_equal(model.nll(changed_N, part), nll_N)
    changed_N[19] = (ids_N[19] + 1) % 4
    assert model.nll(changed_N, part)[0] != nll_N[0]
    apart = [model.nll(ids_N, (stretch,)) for stretch in part]
    np.testing.assert_array_equal(np.concatenate(apart), nll_N)


def test_codes_do_not_overflow() -> None:
    ids_N = np.random.default_rng(0).integers(0, 2**31, 300)
    ids_N = np.concatenate([ids_N, ids_N])
    model = fit_ngram(ids_N, _whole(ids_N), symbols=2**31, order=50)
    assert model.nll(ids_N, _whole(ids_N))[-1] < 1
    assert model.nll(np.flip(ids_N), _whole(ids_N)).min() > 5


SOURCE = SyntheticSource(reach=3, symbols=4, copy=0.9, characters=20_000)
SOURCE_IDS = np.array([ALPHABET.index(symbol) for symbol in SOURCE.text()], np.uint8)
TRAIN, VALID = (range(18_000),), (range(18_000, 20_000),)


@pytest.mark.core
def test_who_reads_too_little_learns_nothing_and_who_reads_enough_nearly_all() -> None:
    best = SOURCE.nll_nats(SOURCE.text())[VALID[0].start :].mean()
    losses = {
        order: fit_ngram(SOURCE_IDS, TRAIN, symbols=4, order=order).nll(SOURCE_IDS, VALID).mean()
        for order in range(1, 7)
    }
    for order in range(1, SOURCE.reach + 1):
        assert losses[order] == pytest.approx(math.log(4), abs=0.02)
    enough = SOURCE.reach + 1
    assert best < losses[enough] < best + 0.01
    assert min(losses, key=losses.__getitem__) == enough
    assert tuned_ngram(SOURCE_IDS, TRAIN, symbols=4).order == enough


def test_the_order_is_chosen_on_the_end_of_the_training_part_alone() -> None:
    ids_N, train = SOURCE_IDS[:4000].copy(), (range(100, 1600), range(1700, 3600))
    # Of 3,400 characters the last 340 are the end of the second stretch, and there alone the
    # character before decides.
    ids_N[3260:3600] = np.arange(340) % 4
    first, last = (range(100, 1600), range(1700, 3260)), (range(3260, 3600),)
    losses = {
        order: fit_ngram(ids_N, first, symbols=4, order=order).nll(ids_N, last).mean()
        for order in (2, 3, 4, 5)
    }
    best = min(losses, key=losses.__getitem__)
    tuned = tuned_ngram(ids_N, train, symbols=4, orders=[5, 4, 3, 2])
    assert tuned.order == best
    again = fit_ngram(ids_N, train, symbols=4, order=best)
    part = (range(3600, 4000),)
    np.testing.assert_array_equal(tuned.nll(ids_N, part), again.nll(ids_N, part))
    elsewhere_N = ids_N.copy()
    elsewhere_N[:100], elsewhere_N[1600:1700], elsewhere_N[3600:] = 0, 1, 2
    other = tuned_ngram(elsewhere_N, train, symbols=4, orders=[5, 4, 3, 2])
    np.testing.assert_array_equal(other.nll(ids_N, part), again.nll(ids_N, part))


def test_uniform_is_the_log_of_the_alphabet() -> None:
    nll_N = uniform_nll(SOURCE_IDS, (range(0, 10), range(15, 20)), 4)
    assert len(nll_N) == 9 + 5 and np.all(nll_N == math.log(4))


def test_unigram_counts_one_more_of_everything() -> None:
    ids_N = _ids("abaccab")
    nll_N = unigram_nll(ids_N, (range(0, 3), range(5, 6)), (range(0, 2), range(3, 5)), 3)
    np.testing.assert_allclose(np.exp(-nll_N), [2 / 7, 1 / 7, 1 / 7])


@pytest.mark.parametrize(
    ("order", "symbols", "message"),
    [
        (0, 4, "order=0 is not allowed: it must be at least 1"),
        (2.0, 4, "order=2.0 is not allowed: it must be a whole number"),
        (61, 4, "order=61: it must be from 1 to 60"),
        (2, 3, r"ids go from 0 to 3: they must lie in \[0, 3\)"),
    ],
)
def test_what_cannot_be_counted_is_refused(order: int, symbols: int, message: str) -> None:
    with pytest.raises(CharlmError, match=message) as caught:
        fit_ngram(SOURCE_IDS, (range(0, 60), range(70, 100)), symbols=symbols, order=order)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("characters", [2, 3, 10, 12])
def test_orders_are_at_most_as_long_as_the_text(characters: int) -> None:
    part = (range(characters),)
    longest = characters * 9 // 10
    found = tuned_ngram(SOURCE_IDS, part, symbols=4)
    assert 1 <= found.order <= longest
    allowed = tuned_ngram(SOURCE_IDS, part, symbols=4, orders=range(1, longest + 1))
    np.testing.assert_array_equal(found.nll(SOURCE_IDS, part), allowed.nll(SOURCE_IDS, part))


def test_orders_may_be_an_array() -> None:
    part = (range(200),)
    orders = np.arange(1, 5)
    found = tuned_ngram(SOURCE_IDS, part, symbols=4, orders=orders)  # type: ignore[arg-type]
    listed = tuned_ngram(SOURCE_IDS, part, symbols=4, orders=[1, 2, 3, 4])
    np.testing.assert_array_equal(found.nll(SOURCE_IDS, part), listed.nll(SOURCE_IDS, part))
    for wrong, message in (
        ([], "orders is empty: give at least one"),
        ([1, 2.0], "order=2.0 is not allowed: it must be a whole number"),
        ([0, 1], "order=0 is not allowed: it must be at least 1"),
    ):
        with pytest.raises(CharlmError, match=message):
            tuned_ngram(SOURCE_IDS, part, symbols=4, orders=wrong)  # type: ignore[arg-type]


def test_a_text_too_short_to_tune_on_is_refused() -> None:
    with pytest.raises(CharlmError, match="it must be from 1 to 0"):
        tuned_ngram(SOURCE_IDS, (range(1),), symbols=4)


def test_ids_outside_the_alphabet_are_not_scored() -> None:
    model = fit_ngram(_ids("abab"), (range(4),), symbols=2, order=2)
    with pytest.raises(CharlmError, match="ids go from 0 to 2"):
        model.nll(_ids("abc"), (range(3),))
    ids_N = np.array([0, 1, 2, 0, 1, -1])
    for train, part in (((range(3),), (range(3, 5),)), ((range(4, 6),), (range(2),))):
        with pytest.raises(CharlmError, match=r"ids go from .* they must lie in \[0, 2\)"):
            unigram_nll(ids_N, train, part, 2)


@pytest.mark.core
def test_repeated_text_costs_a_compressor_next_to_nothing() -> None:
    text = SyntheticSource(copy=0.0, symbols=62, characters=20_000).text()
    half = len(text) // 2
    repeated = compressed_bits_per_char(text, text[half:])
    fresh = compressed_bits_per_char(text[:half], text[half:])
    assert list(repeated) == list(fresh) == ["gzip", "bz2", "xz"]
    assert repeated["gzip"] < 0.1 and repeated["xz"] < 0.1
    for bits in fresh.values():
        assert math.log2(62) <= bits < 1.1 * math.log2(62)


def test_a_compressor_pays_for_characters_and_not_for_bytes() -> None:
    text = SyntheticSource(copy=0.0, symbols=2, characters=8000).text().replace("a", "日")
    assert 1 < compressed_bits_per_char(text[:4000], text[4000:])["xz"] < 2
    with pytest.raises(CharlmError, match="held-out text is empty"):
        compressed_bits_per_char(text, "")


def test_the_ngram_of_the_tutorials_book(book: str) -> None:
    symbols = "".join(sorted(set(book)))
    ids_N = np.searchsorted([*symbols], [*book]).astype(np.uint8)
    rule = SplitRule("tail", 0.1, 0.0, (), blocks=1, guard=0, rounding="exact", part_starts={})
    parts = split_text(len(book), rule, sequence_length=40)
    model = fit_ngram(ids_N, parts["train"], symbols=len(symbols), order=6)
    nll_N = model.nll(ids_N, parts["valid"])
    assert len(nll_N) == size(parts["valid"])
    assert nll_N.mean() == pytest.approx(1.2623, abs=5e-5)


@pytest.mark.parametrize("piece", [1, 7, 50])
def test_an_ngram_scores_the_same_in_pieces(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    part = (range(90), range(90, 91), range(95, 200))
    model = fit_ngram(SOURCE_IDS, (range(500),), symbols=4, order=5)
    whole = model.nll(SOURCE_IDS, part)
    monkeypatch.setattr("charlm_jax.evaluation.ngram._SCORED_AT_ONCE", piece)
    np.testing.assert_array_equal(model.nll(SOURCE_IDS, part), whole)


def test_the_last_characters_are_counted() -> None:
    part = (range(3, 10), range(20, 25))
    assert last_characters(part, 12) == last_characters(part, 99) == part
    assert last_characters(part, 7) == (range(8, 10), range(20, 25))
    assert last_characters(part, 5) == (range(20, 25),)
