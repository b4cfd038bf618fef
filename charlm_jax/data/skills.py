"""Seeded texts that need one skill each, with the exact probability of every character.

A text is a sequence of episodes, which are independent of each other. An episode is a generator: it
yields a `Choice`, the distribution of the next character, and is sent the character. Sampling from
the choices writes a text, and looking up the characters of a text in them gives the losses of the
best predictor: no model can do better on average. An answer is a character whose distribution only
the skill tells; in recall, copy, parity and counting the episode so far determines it.

  recall     pairs of a key and a value, then the keys in another order, each with its value
  copy       a random string, then the same string again
  induction  a Markov chain whose probabilities are drawn anew in every episode
  dyck       brackets of several kinds, nested up to a depth
  parity     bits, then whether the number of ones is odd
  counting   a number of a's, then as many b's

Sources: Arora et al. 2024 (Zoology) for recall; Graves et al. 2014 (Neural Turing Machines) for
copy; Edelman et al. 2024 (Statistical Induction Heads) for induction; Hewitt et al. 2020 (RNNs can
generate bounded hierarchical languages) for dyck; Hahn 2020 (Theoretical limitations of
self-attention) and Grazzi et al. 2024 (Unlocking state-tracking in linear RNNs) for parity; Weiss
et al. 2018 (Finite precision RNNs) for counting.
"""

import itertools
import math
import string
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TYPE_CHECKING, NamedTuple

from charlm_jax.core.errors import CharlmError

if TYPE_CHECKING:
    import numpy as np

MAX_SYNTHETIC_CHARACTERS = 10_000_000
END = "\n"
_QUERY = "?"
_OPENING, _CLOSING = "([{<", ")]}>"


class Choice(NamedTuple):
    """Distribution of the next character.

    Attributes:
      symbols: characters that may come, in a fixed order.
      weights: probabilities in proportion; None if all are equally probable.
      is_answer: whether the skill is needed to tell the distribution.
    """

    symbols: Sequence[str]
    weights: Sequence[float] | None = None
    is_answer: bool = False

    def pick(self, uniform: float) -> str:
        """Return the character at a point of the cumulative distribution, in [0, 1)."""
        if self.weights is None:
            return self.symbols[int(uniform * len(self.symbols))]
        point, last = uniform * math.fsum(self.weights), ""
        for symbol, weight in zip(self.symbols, self.weights, strict=True):
            if weight:
                last = symbol
                if point < weight:
                    return symbol
                point -= weight
        return last  # the sum was rounded

    def nll_nats(self, symbol: str) -> float:
        """Return -log p of a character in nats, infinite if it cannot come."""
        if symbol not in self.symbols:
            return math.inf
        if self.weights is None:
            return math.log(len(self.symbols))
        weight = self.weights[self.symbols.index(symbol)]
        return math.log(math.fsum(self.weights) / weight) if weight else math.inf


Episode = Generator[Choice, str, None]


def _fixed(symbol: str, *, is_answer: bool = False) -> Choice:
    return Choice(symbol, is_answer=is_answer)


def _stops_after(count: int, most: int) -> Sequence[float]:
    """Return weights of going on and stopping after `count` of 1 to `most`, equally probable."""
    return float(most - count), float(count > 0)


def recall_episode(*, pairs: int, keys: int, values: int) -> Episode:
    """Yield the choices of pairs, such as `a3k7?k7a3`."""
    unused = list(string.ascii_lowercase[:keys])
    found = {}
    for _ in range(pairs):
        key = yield Choice(unused)
        unused = [other for other in unused if other != key]
        found[key] = yield Choice(string.digits[:values])
    yield _fixed(_QUERY)
    while found:
        key = yield Choice(list(found))
        yield _fixed(found.pop(key), is_answer=True)
    yield _fixed(END)


def copy_episode(*, length: int, symbols: int) -> Episode:
    """Yield the choices of a string of 1 to `length` characters and its copy, such as `cab?cab`."""
    text = ""
    letters = string.ascii_lowercase[:symbols]
    for count in range(length + 1):
        more, stop = _stops_after(count, length)
        weights = (*[more / symbols] * symbols, stop)
        symbol = yield Choice(letters + _QUERY, weights)
        if symbol == _QUERY:
            break
        text += symbol
    for symbol in text + END:
        yield _fixed(symbol, is_answer=True)


def induction_episode(*, length: int, symbols: int, concentration: float) -> Episode:
    """Yield the choices of a Markov chain of which only the past of the episode tells.

    The successors of each character have probabilities drawn from a Dirichlet distribution; the
    predictive probability of one is (its count + concentration) over their sum. After every
    character, the episode ends with probability 1 / `length`: it has no memory of its length, whose
    mean is `length` characters.
    """
    letters, stop = string.ascii_lowercase[:symbols], 1 / length
    counts = {symbol: dict.fromkeys(letters, concentration) for symbol in letters}
    last = yield Choice(letters)
    while True:
        after = counts[last]
        going_on = (1 - stop) / math.fsum(after.values())
        weights = (*[going_on * count for count in after.values()], stop)
        symbol = yield Choice(letters + END, weights, is_answer=True)
        if symbol == END:
            return
        after[symbol] += 1.0
        last = symbol


def dyck_episode(*, kinds: int, depth: int, stop: float) -> Episode:
    """Yield the choices of brackets nested up to a depth.

    An episode ends with probability `stop` whenever all brackets are closed. It has no memory of
    its length, so that only the open brackets tell what may come.
    """
    opening, closing = _OPENING[:kinds], dict(zip(_OPENING, _CLOSING, strict=True))
    stack: list[str] = []
    symbol = yield Choice(opening)
    while symbol != END:
        if symbol in closing:
            stack.append(symbol)
        else:
            stack.pop()
        last = closing[stack[-1]] if stack else END
        closes = 1.0 if len(stack) == depth else 0.5 if stack else stop
        weights = (*[(1 - closes) / kinds] * kinds, closes)
        symbol = yield Choice(opening + last, weights, is_answer=True)


def parity_episode(*, length: int) -> Episode:
    """Yield the choices of 1 to `length` bits and their parity, such as `0110=0`."""
    ones = 0
    for count in range(length + 1):
        more, stop = _stops_after(count, length)
        symbol = yield Choice("01=", (more / 2, more / 2, stop))
        if symbol == "=":
            break
        ones += symbol == "1"
    yield _fixed(str(ones % 2), is_answer=True)
    yield _fixed(END)


def counting_episode(*, length: int) -> Episode:
    """Yield the choices of 1 to `length` a's and as many b's."""
    for count in itertools.count():
        symbol = yield Choice("ab", _stops_after(count, length))
        if symbol == "b":
            break
    for symbol in "b" * (count - 1) + END:
        yield _fixed(symbol, is_answer=True)


class _Task(NamedTuple):
    """A skill.

    Attributes:
      episode: function that returns an episode, given the parameters.
      defaults: parameters with their values.
      most: largest value of each; the smallest is 1, or 0.01 for fractions.
    """

    episode: Callable[..., Episode]
    defaults: Mapping[str, float]
    most: Mapping[str, float]


TASKS: Mapping[str, _Task] = {
    "recall": _Task(
        recall_episode,
        {"pairs": 8, "keys": 16, "values": 10},
        {"pairs": 26, "keys": 26, "values": 10},
    ),
    "copy": _Task(copy_episode, {"length": 20, "symbols": 8}, {"length": 10_000, "symbols": 26}),
    "induction": _Task(
        induction_episode,
        {"length": 128, "symbols": 4, "concentration": 0.3},
        {"length": 100_000, "symbols": 26, "concentration": 1_000.0},
    ),
    "dyck": _Task(
        dyck_episode,
        {"kinds": 3, "depth": 8, "stop": 0.25},
        {"kinds": 4, "depth": 1_000, "stop": 1.0},
    ),
    "parity": _Task(parity_episode, {"length": 20}, {"length": 10_000}),
    "counting": _Task(counting_episode, {"length": 30}, {"length": 10_000}),
}
_LEAST_FRACTION = 0.01


@dataclass(frozen=True)
class SkillSource:
    """A text of one skill.

    Args:
      task: name of the skill, of `TASKS`.
      parameters: parameters of its episodes; others have their defaults.
      characters: length of the text, at most 10 million.
      seed: seed of the text, from 0.

    Raises:
      CharlmError: a name is unknown or a value is out of range.
    """

    task: str
    parameters: Mapping[str, float] = field(hash=False)
    characters: int = 200_000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise CharlmError(f"synthetic: task={self.task} is not one of {', '.join(TASKS)}")
        task = TASKS[self.task]
        for name in self.parameters:
            if name not in task.defaults:
                known = ", ".join((*task.defaults, "characters", "seed"))
                raise CharlmError(
                    f"synthetic: task={self.task} has no parameter {name!r}; it has {known}"
                )
        whole = {**task.defaults, **self.parameters}
        limits: dict[str, tuple[float, float]] = {
            name: (_LEAST_FRACTION if isinstance(value, float) else 1, task.most[name])
            for name, value in task.defaults.items()
        }
        if self.task == "recall":
            limits["pairs"] = (1, whole["keys"])
        limits |= {"characters": (2, MAX_SYNTHETIC_CHARACTERS), "seed": (0, 2**63 - 1)}
        for name, (low, high) in limits.items():
            value = whole.get(name, getattr(self, name, None))
            assert value is not None
            if not low <= value <= high:
                default = " (the default)" * (name in task.defaults and name not in self.parameters)
                raise CharlmError(
                    f"synthetic: {name}={value}{default} is not between {low:g} and {high:g}"
                )
        object.__setattr__(self, "parameters", whole)

    @property
    def spec(self) -> str:
        """Corpus spec with all parameters."""
        fields = {"task": self.task, **self.parameters}
        fields |= {"characters": self.characters, "seed": self.seed}
        return "synthetic:" + ",".join(f"{name}={value}" for name, value in fields.items())

    def text(self) -> str:
        """Return the text; a longer text from the same source begins with the shorter one."""
        return _write(self).text

    def nll_nats(self, text: str) -> "np.ndarray":
        """Return the losses of the best predictor, which knows the source.

        Args:
          text: text from the source, from its beginning.

        Returns:
          Negative log-likelihoods in nats, float64, one per character; infinite from the first
          character that the source does not write.
        """
        return self._read(text).nll_N

    def is_answer(self, text: str) -> "np.ndarray":
        """Return a mask of the characters whose distribution only the skill tells."""
        return self._read(text).is_answer_N

    def _read(self, text: str) -> "_Walk":
        own, size = _write(self), len(text)
        if own.text.startswith(text):
            return _Walk(text, own.nll_N[:size].copy(), own.is_answer_N[:size].copy())
        symbols = iter(text)
        return self._walk(lambda choice: next(symbols), size)

    def _walk(self, symbol_of: Callable[[Choice], str], characters: int) -> "_Walk":
        """Follow the choices up to the first character that cannot come.

        Args:
          symbol_of: returns the next character, given its choice.
          characters: largest number of characters.
        """
        import numpy as np

        text = []
        nll_N, is_answer_N = np.full(characters, math.inf), np.zeros(characters, bool)
        choices = self._choices()
        choice = next(choices)
        for place in range(characters):
            symbol = symbol_of(choice)
            nll_N[place], is_answer_N[place] = choice.nll_nats(symbol), choice.is_answer
            if math.isinf(nll_N[place]):
                break
            text.append(symbol)
            choice = choices.send(symbol)
        return _Walk("".join(text), nll_N, is_answer_N)

    def _choices(self) -> Generator[Choice, str, None]:
        """Yield the choices of one episode after the other."""
        episode = partial(TASKS[self.task].episode, **self.parameters)
        while True:
            yield from episode()


class _Walk(NamedTuple):
    """A text with what the source says of each character: its loss, and whether it is an answer."""

    text: str
    nll_N: "np.ndarray"
    is_answer_N: "np.ndarray"


@lru_cache(maxsize=2)
def _write(source: SkillSource) -> _Walk:
    """Write the text of a source; the last two are kept, since a long one takes seconds."""
    uniforms = _uniforms(source.seed)
    return source._walk(lambda choice: choice.pick(next(uniforms)), source.characters)


def _uniforms(seed: int, *, at_once: int = 2**14) -> Iterator[float]:
    """Yield numbers in [0, 1) from NumPy's raw stream, which is the same in every version."""
    import numpy as np

    generator = np.random.PCG64(seed)
    while True:
        yield from ((generator.random_raw(at_once) >> 11) * 2.0**-53).tolist()
