"""Texts of one skill: what they say is right, and their best losses are those of closed forms."""

import hashlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from charlm_jax.core.errors import CharlmError
from charlm_jax.data.corpora import load_corpus
from charlm_jax.data.skills import END, TASKS, SkillSource
from charlm_jax.data.synthetic import parse_source

HASH = "fbfa971ad08a342bc3a3f820259341b03eb169779bc68d2f179c2be565b5b99a"
SMALL = {
    "recall": "pairs=4,keys=6,values=3",
    "copy": "length=6,symbols=3",
    "induction": "length=24,symbols=3,concentration=0.5",
    "dyck": "kinds=2,depth=4,stop=0.25",
    "parity": "length=7",
    "counting": "length=9",
}


def _source(task: str, characters: int = 20_000, seed: int = 1) -> SkillSource:
    spec = f"synthetic:task={task},{SMALL[task]},characters={characters},seed={seed}"
    source = parse_source(spec)
    assert isinstance(source, SkillSource)
    return source


def _episodes(source: SkillSource) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """The whole episodes of a text, with their losses and answers."""
    text = source.text()
    ends = [0, *itertools.accumulate(len(x) + 1 for x in text.split("\n")[:-1])]
    nll_N, is_answer_N = source.nll_nats(text), source.is_answer(text)
    return [
        (text[start : end - 1], nll_N[start:end], is_answer_N[start:end])
        for start, end in itertools.pairwise(ends)
    ]


def _recalls(episode: str) -> bool:
    facts, queries = episode.split("?")
    pairs, asked = (re.findall("([a-f])([0-2])", x) for x in (facts, queries))
    return len(dict(pairs)) == 4 and sorted(pairs) == sorted(asked)


def _copies(episode: str) -> bool:
    first, second = episode.split("?")
    return first == second and 1 <= len(first) <= 6 and set(first) <= set("abc")


def _nests(episode: str) -> bool:
    depth = 0
    for symbol in episode:
        depth += 1 if symbol in "([" else -1
        if not 0 <= depth <= 4:
            return False
    while "()" in episode or "[]" in episode:
        episode = episode.replace("()", "").replace("[]", "")
    return not episode


def _is_odd(episode: str) -> bool:
    bits, parity = episode.split("=")
    return 1 <= len(bits) <= 7 and bits.count("1") % 2 == int(parity)


def _counts(episode: str) -> bool:
    size = len(episode) // 2
    return episode == "a" * size + "b" * size and 1 <= size <= 9


IS_RIGHT: dict[str, Callable[[str], bool]] = {
    "recall": _recalls,
    "copy": _copies,
    "induction": lambda episode: episode and set(episode) <= set("abc"),
    "dyck": _nests,
    "parity": _is_odd,
    "counting": _counts,
}


@pytest.mark.parametrize("task", TASKS)
def test_every_episode_is_right(task: str) -> None:
    episodes = [episode for episode, _, _ in _episodes(_source(task))]
    assert len(set(episodes)) > 5 and all(map(IS_RIGHT[task], episodes))


def _chain_nats(episode: str) -> float:
    """Loss of a Markov chain with Dirichlet(0.5) rows: their marginal likelihood, and its end."""
    log_p = -math.log(3) + (len(episode) - 1) * math.log(23 / 24) - math.log(24)
    for first in "abc":
        after = Counter(b for a, b in itertools.pairwise(episode) if a == first)
        log_p += math.lgamma(1.5) - math.lgamma(1.5 + sum(after.values()))
        log_p += sum(math.lgamma(0.5 + after[x]) - math.lgamma(0.5) for x in "abc")
    return -log_p


CLOSED_FORM_NATS: dict[str, Callable[[str], float]] = {
    "recall": lambda episode: (
        sum(math.log(6 - n) for n in range(4)) + 4 * math.log(3) + math.log(math.factorial(4))
    ),
    "copy": lambda episode: math.log(6) + episode.index("?") * math.log(3),
    "induction": _chain_nats,
    "parity": lambda episode: math.log(7) + episode.index("=") * math.log(2),
    "counting": lambda episode: math.log(9),
}


@pytest.mark.parametrize("task", CLOSED_FORM_NATS)
def test_the_best_loss_of_an_episode_has_a_closed_form(task: str) -> None:
    for episode, nll_N, is_answer_N in _episodes(_source(task)):
        assert nll_N.sum() == pytest.approx(CLOSED_FORM_NATS[task](episode))
        if task != "induction":  # whose answers are known as well as the past tells
            assert is_answer_N.any() and not nll_N[is_answer_N].any()


def test_a_chain_is_predicted_best_without_counting_its_length() -> None:
    """By the counts of the pairs so far, and an end of constant probability."""
    lengths = []
    for episode, nll_N, is_answer_N in _episodes(_source("induction")):
        lengths.append(len(episode))
        assert is_answer_N.tolist() == [False] + [True] * len(episode)
        for place in range(1, len(episode) + 1):
            last, past = episode[place - 1], itertools.pairwise(episode[:place])
            after = Counter(b for a, b in past if a == last)
            symbol = (episode + END)[place]
            chance = (after[symbol] + 0.5) / (sum(after.values()) + 1.5)
            wanted = 1 / 24 if symbol == END else chance * 23 / 24
            assert nll_N[place] == pytest.approx(-math.log(wanted))
    assert np.mean(lengths) == pytest.approx(24, abs=4 * 24 / math.sqrt(len(lengths)))
    assert min(lengths) < 6 and max(lengths) > 60


def test_brackets_are_opened_and_closed_with_equal_probability() -> None:
    longest = 0
    for episode, nll_N, is_answer_N in _episodes(_source("dyck")):
        depth, longest = 0, max(longest, len(episode))
        for place, symbol in enumerate(episode + END):
            closes = 0.0 if not place else {0: 0.25, 4: 1.0}.get(depth, 0.5)
            wanted = (1 - closes) / 2 if symbol in "([" else closes
            assert nll_N[place] == pytest.approx(-math.log(wanted))
            assert is_answer_N[place] == bool(place)
            depth += 1 if symbol in "([" else -1
    assert longest > 60  # no episode is cut short


@pytest.mark.parametrize("task", TASKS)
def test_characters_come_as_often_as_their_probability_says(task: str) -> None:
    """The mean loss of a text differs from its expectation by chance alone."""
    source = _source(task, characters=30_000)
    text, surplus = source.text(), []
    choices = source._choices()
    choice = next(choices)
    for symbol in text:
        nats = {x: choice.nll_nats(x) for x in choice.symbols}
        expected = sum(math.exp(-x) * x for x in nats.values() if x < math.inf)
        surplus.append(nats[symbol] - expected)
        choice = choices.send(symbol)
    deviation = np.std(surplus) / math.sqrt(len(surplus))
    assert abs(np.mean(surplus)) < 4 * deviation + 1e-12


@pytest.mark.parametrize("task", TASKS)
def test_a_longer_text_begins_with_the_shorter_one(task: str) -> None:
    text = _source(task, 20_000).text()
    assert _source(task, 3_000).text() == text[:3_000]
    assert _source(task, 3_000, seed=2).text() != text[:3_000]
    assert len(text) == 20_000


def test_the_texts_never_change() -> None:
    texts = "".join(_source(task, 5_000).text() for task in TASKS)
    assert hashlib.sha256(texts.encode()).hexdigest() == HASH


def test_what_the_source_does_not_write_has_no_probability() -> None:
    source = _source("recall")
    text = source.text()
    place = text.index("?") + 2  # the first answer
    wrong = text[:place] + ("0" if text[place] != "0" else "1") + text[place + 1 :]
    nll_N = source.nll_nats(wrong)
    assert np.isfinite(nll_N[:place]).all() and np.isinf(nll_N[place:]).all()


def test_a_corpus_has_its_parameters_and_its_best_loss() -> None:
    corpus = load_corpus("synthetic:task=parity,length=7,characters=20000,seed=1")
    source = _source("parity")
    assert corpus.text == source.text()
    best = float(source.nll_nats(corpus.text).mean())
    assert corpus.facts == {"length": 7, "seed": 1, "best_loss_nats": best}
    assert parse_source(source.spec) == source


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("task=sorting", "task=sorting is not one of recall, copy, induction"),
        ("task=copy,pairs=3", "task=copy has no parameter 'pairs'; it has length, symbols, char"),
        ("task=copy,unit=bytes", "task=copy has no parameter 'unit'"),
        ("task=recall,keys=4", "pairs=8 (the default) is not between 1 and 4"),
        ("task=copy,length=0", "length=0 is not between 1 and 10000"),
        ("task=copy,length=x", "length='x' is not a whole number"),
        ("task=recall,pairs=17", "pairs=17 is not between 1 and 16"),
        ("task=induction,concentration=nan", "concentration=nan is not between 0.01 and 1000"),
        ("task=parity,characters=1", "characters=1 is not between 2 and 1e"),
        ("task=parity,task=copy", "task is given twice"),
        ("pairs=3", "has no parameter 'pairs'; it has reach"),
    ],
)
def test_wrong_parameters_are_refused(spec: str, says: str) -> None:
    with pytest.raises(CharlmError) as caught:
        parse_source(f"synthetic:{spec}")
    assert says in str(caught.value)
