"""Ranking of a recurrent model's units by how well they follow a property of the text.

A property holds at some places of a text: the line ends after a character, or it is inside
quotation marks. A unit's score for it is the area under the ROC curve (AUC): the probability that
the unit is higher at a place where the property holds than at one where it does not, ties counting
half. 1/2 is chance; a unit that is lower there counts by one minus its AUC.

The best of hundreds of units is best partly by chance, so it is picked on one text and scored on
another. The AUC of the last character alone is reported as a baseline.

Letters of this module: B pieces of T characters, N places of all pieces, U units.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.stats import rankdata

from charlm_jax.core.numerics import fixed_numerics
from charlm_jax.core.types import Params
from charlm_jax.data.large_text import Text
from charlm_jax.data.splits import Part
from charlm_jax.data.vocabulary import Vocabulary
from charlm_jax.models import LanguageModel

PIECE = 600
"""Number of characters of a piece, which is read from the model's initial state."""

PIECES = 12
"""Largest number of pieces that units are picked on, and that they are scored on."""

_NOT_RANKED = 100  # places at the start of a piece, of which the model has read little
_FEWEST = 20  # places of a text where a property holds, and where it does not
_UNITS_AT_ONCE = 512
_EXTREMES = (2.0, 98.0)  # percentiles


class UnitPick(NamedTuple):
    """The unit that follows a property best.

    Attributes:
      property_name: name of the property, one of `PROPERTIES`.
      layer: name of the unit's layer.
      kind: name of the layer in `config.model.layers`.
      array: captured array that holds the unit's values, such as `cell`.
      unit: index of the unit.
      is_high: True if its values are higher where the property holds.
      picked_auc: its score on the text that it was picked on.
      tested_auc: its score on the other text.
      symbol_auc: score of the last character alone on the other text.
      places: number of scored places of the other text at which the property holds.
      low: second percentile of its values on the text that it was picked on.
      high: 98th percentile of them.
      shown: positions of the scored places of one piece of the other text: the piece in which the
        property changes most often.
      value_T: values of the unit there; tanh of an LSTM's cell, as it is handed on.
      holds_T: mask of the positions at which the property holds.
    """

    property_name: str
    layer: str
    kind: str
    array: str
    unit: int
    is_high: bool
    picked_auc: float
    tested_auc: float
    symbol_auc: float
    places: int
    low: float
    high: float
    shown: range
    value_T: np.ndarray
    holds_T: np.ndarray

    @property
    def strength_T(self) -> np.ndarray:
        """Values from 0 to 1: 1 at the extreme where the property holds, 0 at the other."""
        span = max(self.high - self.low, 1e-9)
        rising_T = np.clip((self.value_T - self.low) / span, 0.0, 1.0)
        return rising_T if self.is_high else 1.0 - rising_T


class UnitRanking(NamedTuple):
    """The best unit for each property.

    Attributes:
      units: number of units that were ranked.
      picked_characters: number of scored characters that units were picked on.
      tested_characters: number of scored characters of the other text.
      picks: a pick for each property that holds often enough in both texts.
    """

    units: int
    picked_characters: int
    tested_characters: int
    picks: Sequence[UnitPick]


def inside_quotation(text: str) -> np.ndarray:
    r"""Return the positions of a text after which a quotation is open.

    A blank line closes a quotation, as between paragraphs, each of which opens it again. Marks may
    be English (“a”), German („a“ or »a«) or French («a»).

    Args:
      text: N characters.

    Returns:
      is_open_N, boolean.

    >>> inside_quotation('a "b" “c\n\nd').astype(int).tolist()
    [0, 0, 1, 1, 0, 0, 1, 1, 1, 0, 0]
    """
    pointed_opens, pointed_closes = _pointed_marks(text)
    opener, before, places = "", "", []
    for symbol in text:
        if symbol in ("“", "„", pointed_opens) and opener + symbol != "„“":
            opener = symbol
        elif symbol in ("“", "”", pointed_closes) or symbol == before == "\n":
            opener = ""
        elif symbol == '"':
            opener = "" if opener else symbol
        places.append(opener != "")
        before = symbol
    return np.array(places, bool)


def _pointed_marks(text: str) -> tuple[str, str]:
    """Return the pointed marks that open and close a quotation in a text.

    >>> _pointed_marks("«oui»"), _pointed_marks("»ja«")
    (('«', '»'), ('»', '«'))
    """
    points_in = len(re.findall(r"»\w", text)) > len(re.findall(r"«\w", text))
    return ("»", "«") if points_in else ("«", "»")


def _inside_quotation(symbols: str, unit: str) -> np.ndarray:
    """Return `inside_quotation` of a text for each of its symbols."""
    vocabulary = Vocabulary.from_text(symbols).with_unit(unit)
    text = vocabulary.to_text(symbols)
    lengths = [len(vocabulary.to_symbols(character)) for character in text]
    return np.repeat(inside_quotation(text), lengths)


def _precedes(symbol: str) -> Callable[[str, str], np.ndarray]:
    """Return a function that masks the positions of a text before a symbol."""

    def holds(symbols: str, unit: str) -> np.ndarray:
        return np.array([after == symbol for after in symbols[1:]] + [False], bool)

    return holds


PROPERTIES: Mapping[str, Callable[[str, str], np.ndarray]] = {
    "the line ends next": _precedes("\n"),
    "inside quotation marks": _inside_quotation,
    "a space comes next": _precedes(" "),
}
"""Name of a property -> function from a text of N symbols and their unit to a mask of them."""


def cut_pieces(text: Text, part: Part, length: int, count: int) -> list[range]:
    r"""Return pieces of a part, evenly spaced, that are disjoint and equally long.

    A piece begins after a blank line if there is one nearby, so that what a model cannot know, such
    as a quotation that was opened before, is rare.

    Args:
      text: the whole text.
      part: positions of the text.
      length: number of characters of a piece; one more is left after it.
      count: largest number of pieces.

    >>> cut_pieces("abcde\n\nfghijklm", (range(15),), 4, 2)
    [range(0, 4), range(7, 11)]
    """
    pieces = []
    for stretch in part:
        start = stretch.start
        while start + length < stretch.stop:
            blank = text.find("\n\n", start, start + length)
            is_near = 0 <= blank < stretch.stop - length - 2
            begin = blank + 2 if is_near else start
            pieces.append(range(begin, begin + length))
            start = begin + length
    few = min(count, len(pieces))
    return [pieces[n * (len(pieces) - 1) // max(few - 1, 1)] for n in range(few)]


@fixed_numerics()
def rank_units(
    model: LanguageModel,
    params: Params,
    *,
    text: Text,
    ids_N: np.ndarray,
    picked: Sequence[range],
    tested: Sequence[range],
    kinds: Sequence[str],
    unit: str = "characters",
) -> UnitRanking | None:
    """Pick the unit of all recurrent layers that follows each property best, and score it.

    Args:
      model: model whose units are ranked.
      params: weights of the model.
      text: text that the pieces are of, as symbols.
      ids_N: ids of the text.
      picked: pieces that units are picked on, all equally long.
      tested: pieces that the picks are scored on, as long as the others.
      kinds: names of the layers.
      unit: unit of the symbols, `characters` or `bytes`.

    Returns:
      The ranking; None if the model has no recurrent layer, there are no pieces, or no property
      holds often enough.
    """
    if not picked or not tested:
        return None
    layers = dict(enumerate(kinds))
    first = _read(model, params, text, ids_N, picked, layers, unit)
    second = _read(model, params, text, ids_N, tested, layers, unit)
    ranks = {key: _ranks(_scored(first, values)) for key, values in first.arrays.items()}
    if not ranks:
        return None
    found = [_pick(name, first, second, ranks, tested) for name in PROPERTIES]
    picks = [pick for pick in found if pick is not None]
    if not picks:
        return None
    return UnitRanking(
        units=sum(rank_NU.shape[1] for rank_NU in ranks.values()),
        picked_characters=_scored(first, first.ids_BT).size,
        tested_characters=_scored(second, second.ids_BT).size,
        picks=picks,
    )


class _Key(NamedTuple):
    """A captured array: layer, kind of the layer, name of the array."""

    layer: str
    kind: str
    array: str


class _ReadText(NamedTuple):
    """Pieces of a text: their ids, properties, and the states (B, T, U) of every layer."""

    ids_BT: np.ndarray
    holds: Mapping[str, np.ndarray]
    arrays: Mapping[_Key, np.ndarray]


def _read(
    model: LanguageModel,
    params: Params,
    text: Text,
    ids_N: np.ndarray,
    pieces: Sequence[range],
    kinds: Mapping[int, str],
    unit: str,
) -> _ReadText:
    """Read pieces of a text, each from the initial state."""
    ids_BT = np.stack([ids_N[piece.start : piece.stop] for piece in pieces]).astype(np.int32)
    holds = {
        name: np.stack([property_of(text[x.start : x.stop + 1], unit)[:-1] for x in pieces])
        for name, property_of in PROPERTIES.items()
    }
    seen = _compiled_states(model, len(pieces))(params, ids_BT)
    arrays = {
        _Key(layer, kinds[int(layer.rpartition("_")[2])], name): np.asarray(values_BTU, np.float32)
        for layer, states in sorted(seen.items())
        for name, values_BTU in states.items()
    }
    return _ReadText(ids_BT, holds, arrays)


@functools.lru_cache(maxsize=8)
def _compiled_states(model: LanguageModel, batch: int) -> Callable[..., Any]:
    """Return a compiled function: (params, ids_BT) -> carried states of each recurrent layer."""

    def read(params: Params, ids_BT: jax.Array) -> dict[str, dict[str, jax.Array]]:
        seen = model.inspect(params, ids_BT, model.initial_state(batch, 0))
        states = {
            layer: {name: x for name, x in arrays.items() if _is_state(name, x)}
            for layer, arrays in seen.items()
            if layer != "logits"
        }
        return {layer: arrays for layer, arrays in states.items() if arrays}

    return jax.jit(read)


def _is_state(name: str, values: jax.Array) -> bool:
    """Return whether a captured array has the states of a recurrent layer, (B, T, U)."""
    is_other = name == "candidate" or name.endswith("_gate") or name.startswith("stream_")
    return values.ndim == 3 and not is_other


def _first(read: _ReadText) -> int:
    """Return the first position of a piece that is scored."""
    return min(_NOT_RANKED, read.ids_BT.shape[1] // 4)


def _scored(read: _ReadText, values_BT: np.ndarray) -> np.ndarray:
    """Return the values at the scored positions: (N, ...)."""
    chosen = values_BT[:, _first(read) :]
    return chosen.reshape(-1, *chosen.shape[2:])


def _pick(
    name: str,
    picked: _ReadText,
    tested: _ReadText,
    ranks: Mapping[_Key, np.ndarray],
    pieces: Sequence[range],
) -> UnitPick | None:
    """Return the best unit for a property; None if it holds too rarely, or too often."""
    masks = [_scored(read, read.holds[name]) for read in (picked, tested)]
    if any(min(mask_N.sum(), (~mask_N).sum()) < _FEWEST for mask_N in masks):
        return None
    aucs = {key: _auc_of_ranks(rank_NU, masks[0]) for key, rank_NU in ranks.items()}
    key = max(aucs, key=lambda key: float(np.abs(aucs[key] - 0.5).max()))
    unit = int(np.abs(aucs[key] - 0.5).argmax())
    is_high = bool(aucs[key][unit] >= 0.5)
    values_BT = tested.arrays[key][:, :, unit]
    (tested_auc,) = area_under_curve(_scored(tested, values_BT)[:, None], masks[1])
    first = _first(tested)
    holds_BT = tested.holds[name][:, first:]
    shown = int((np.diff(holds_BT, axis=1) != 0).sum(axis=1).argmax())
    squash = np.tanh if (key.kind, key.array) == ("lstm", "cell") else np.asarray
    low, high = np.percentile(squash(_scored(picked, picked.arrays[key][:, :, unit])), _EXTREMES)
    return UnitPick(
        name,
        *key,
        unit=unit,
        is_high=is_high,
        picked_auc=float(np.abs(aucs[key][unit] - 0.5) + 0.5),
        tested_auc=float(tested_auc if is_high else 1.0 - tested_auc),
        symbol_auc=_symbol_auc(name, picked, tested),
        places=int(masks[1].sum()),
        low=float(low),
        high=float(high),
        shown=pieces[shown][first:],
        value_T=squash(values_BT[shown, first:]),
        holds_T=holds_BT[shown],
    )


def area_under_curve(values_NU: np.ndarray, holds_N: np.ndarray) -> np.ndarray:
    """Compute the AUC of every unit: P(value where it holds > value elsewhere), ties counting half.

    Args:
      values_NU: values of the units.
      holds_N: mask of the positions where the property holds; some, not all.

    Returns:
      auc_U, float64.

    Source: Hanley and McNeil 1982, "The meaning and use of the area under a ROC curve".

    >>> area_under_curve(np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 0.0]]), np.array([0, 1, 1]) > 0)
    array([1.  , 0.25])
    """
    return _auc_of_ranks(_ranks(values_NU), holds_N)


def _ranks(values_NU: np.ndarray) -> np.ndarray:
    """Return the rank of each value among those of its unit, from 1; that of ties is their mean."""
    columns = range(0, values_NU.shape[1], _UNITS_AT_ONCE)
    ranks = [rankdata(values_NU[:, start : start + _UNITS_AT_ONCE], axis=0) for start in columns]
    return np.concatenate(ranks, axis=1).astype(np.float32)  # halves below 2**23 are exact


def _auc_of_ranks(rank_NU: np.ndarray, holds_N: np.ndarray) -> np.ndarray:
    positive, negative = int(holds_N.sum()), int((~holds_N).sum())
    sum_U = rank_NU[holds_N].sum(axis=0, dtype=np.float64)
    auc_U: np.ndarray = (sum_U - positive * (positive + 1) / 2) / (positive * negative)
    return auc_U


def _symbol_auc(name: str, picked: _ReadText, tested: _ReadText) -> float:
    """Return the AUC, on the other text, of how often a property holds at each character."""
    ids_N, holds_N = (_scored(picked, x) for x in (picked.ids_BT, picked.holds[name]))
    symbols = int(max(picked.ids_BT.max(), tested.ids_BT.max())) + 1
    counts_V = np.bincount(ids_N, minlength=symbols)
    rate_V = (np.bincount(ids_N, holds_N, minlength=symbols) + holds_N.mean()) / (counts_V + 1)
    values_N = rate_V[_scored(tested, tested.ids_BT)]
    (auc,) = area_under_curve(values_N[:, None], _scored(tested, tested.holds[name]))
    return float(auc)
