"""Seeded synthetic text whose best attainable loss is known exactly.

Character t repeats character t - reach with probability `copy`; otherwise it is sampled uniformly
from k symbols. Each character is therefore marginally uniform, and the text consists of `reach`
independent, interleaved Markov chains:

- A reader of fewer than `reach` characters has seen none of the target's own chain: the best loss
  is exactly ln k, however many characters were read.
- A reader of `reach` or more knows the chain's last character c. The next one is c with
  probability q = copy + (1 - copy) / k, and each of the others with r = (1 - copy) / k. The best
  loss is the entropy rate, -q ln q - (k - 1) r ln r nats; more context does not lower it.

Dependence therefore ends at a step, not a slope: a model whose context is one character too short
learns nothing at all. Source: our choice, because the end of a slope would be a matter of opinion.
"""

import math
import string
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from charlm_jax.core.errors import CharlmError
from charlm_jax.data.skills import MAX_SYNTHETIC_CHARACTERS, TASKS, SkillSource

if TYPE_CHECKING:
    import numpy as np

ALPHABET = string.ascii_lowercase + string.ascii_uppercase + string.digits
PARAMETERS = {"reach": int, "symbols": int, "copy": float, "characters": int, "seed": int}


@dataclass(frozen=True)
class SyntheticSource:
    """The source described in the module docstring.

    Args:
      reach: distance in characters to the copied one, from 1.
      symbols: size k of the alphabet, 2 to 62.
      copy: probability of copying, 0 (unpredictable) to 1 (deterministic).
      characters: length of the text, more than `reach`, at most 10 million.
      seed: seed of the generator, from 0.

    Raises:
      CharlmError: a value is out of range.
    """

    reach: int = 8
    symbols: int = 4
    copy: float = 0.9
    characters: int = 200_000
    seed: int = 0

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "characters": (2, MAX_SYNTHETIC_CHARACTERS),
            "reach": (1, self.characters - 1),
            "symbols": (2, len(ALPHABET)),
            "copy": (0, 1),
            "seed": (0, 2**63 - 1),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise CharlmError(f"synthetic: {name}={value} is not between {low} and {high}")

    @property
    def spec(self) -> str:
        """Corpus spec with all parameters."""
        return "synthetic:" + ",".join(f"{name}={value}" for name, value in asdict(self).items())

    @property
    def entropy_rate_nats(self) -> float:
        """Best attainable loss per character, in nats, after reading `reach` or more."""
        hit, miss = self._probabilities
        return _surprise(hit) + (self.symbols - 1) * _surprise(miss)

    def optimal_loss_nats(self, seen: int) -> float:
        """Return the best attainable loss, in nats, on a character after `seen` others."""
        return math.log(self.symbols) if seen < self.reach else self.entropy_rate_nats

    def text(self) -> str:
        """Return the text; a longer text from the same source begins with the shorter one."""
        import numpy as np

        # NumPy guarantees the raw stream of a bit generator across versions, but not the output of
        # Generator; the raw stream keeps the text identical.
        raw = np.random.PCG64(self.seed).random_raw(2 * self.characters)
        uniform = (raw >> 11).reshape(-1, 2) * 2.0**-53
        fresh = (uniform[:, 1] * self.symbols).astype(np.int64)
        position = np.arange(self.characters)
        drawn = (uniform[:, 0] >= self.copy) | (position < self.reach)
        # A chain repeats its latest draw, whose position is a running maximum down its column.
        rows = -(-self.characters // self.reach)
        latest = np.zeros(rows * self.reach, np.int64)
        latest[: self.characters] = np.where(drawn, position, 0)
        latest = np.maximum.accumulate(latest.reshape(rows, self.reach), axis=0).ravel()
        ids = fresh[latest[: self.characters]]
        return np.frombuffer(ALPHABET.encode("ascii"), np.uint8)[ids].tobytes().decode("ascii")

    def nll_nats(self, text: str) -> "np.ndarray":
        """Return the per-character losses of the best predictor, which knows the source.

        Their mean differs from the entropy rate by the sampling noise of this text, which a fair
        comparison subtracts.

        Args:
          text: text from the source, from its beginning.

        Returns:
          Negative log-likelihoods in nats, float64, one per character.
        """
        import numpy as np

        codes = np.frombuffer(text.encode("ascii"), np.uint8)
        hit, miss = self._probabilities
        nll = np.full(len(codes), math.log(self.symbols))
        repeats = codes[self.reach :] == codes[: -self.reach]
        with np.errstate(divide="ignore"):
            nll[self.reach :] = -np.log(np.where(repeats, hit, miss))
        return nll

    @property
    def _probabilities(self) -> tuple[float, float]:
        """Probabilities of the character `reach` back, and of each other symbol."""
        miss = (1 - self.copy) / self.symbols
        return self.copy + miss, miss


def parse_source(spec: str) -> SyntheticSource | SkillSource:
    """Return the source described by a spec such as `synthetic:reach=8,copy=0.5`.

    Args:
      spec: `synthetic`, or `synthetic:` and comma-separated parameters as `name=value`; with a
        `task`, a source of `charlm_jax.data.skills`.

    Raises:
      CharlmError: a parameter is unknown, repeated, malformed or out of range.
    """
    given: dict[str, str] = {}
    for item in filter(None, spec.partition(":")[2].split(",")):
        name, _, value = (part.strip() for part in item.partition("="))
        if name in given:
            raise CharlmError(f"synthetic: {name} is given twice in {spec!r}")
        given[name] = value
    if "task" in given:
        return _parse_skill(given)
    for name in given:
        if name not in PARAMETERS:
            raise CharlmError(
                f"synthetic has no parameter {name!r}; it has {', '.join(PARAMETERS)}, or task"
            )
    return SyntheticSource(**{x: _number(x, given[x], PARAMETERS[x]) for x in given})


def _parse_skill(given: Mapping[str, str]) -> SkillSource:
    task = TASKS.get(given["task"])
    kinds: dict[str, type] = {"characters": int, "seed": int}
    if task is not None:
        kinds |= {name: type(value) for name, value in task.defaults.items()}
    numbers: dict[str, Any] = {
        # A name that there is not is refused whatever its value.
        name: _number(name, value, kinds[name]) if name in kinds else math.nan
        for name, value in given.items()
        if name != "task" and task is not None
    }
    own = {name: numbers.pop(name) for name in ("characters", "seed") if name in numbers}
    return SkillSource(given["task"], numbers, **own)


def _number(name: str, value: str, kind: type) -> Any:
    try:
        return kind(value)
    except ValueError:
        said = "number" if kind is float else "whole number"
        raise CharlmError(f"synthetic: {name}={value!r} is not a {said}") from None


def _surprise(probability: float) -> float:
    return -probability * math.log(probability) if probability else 0.0
