r"""Stop strings: sampled text is cut at the first that occurs.

A text ends as soon as one of the strings is complete in the sampled text; neither that string nor
anything after it is part of the text. Of several that are completed by the same character, the
longest counts. The prompt does not count, so a string that begins in it has no effect. The end of a
text therefore depends only on its characters, not on the pieces in which it is sampled. Only a text
that ends within a stop string, because no more characters were requested, keeps the beginning of
that string, which a longer text may lack.
"""

import codecs
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from charlm_jax.data.vocabulary import Vocabulary


class Chunk(NamedTuple):
    """New part of a text.

    Attributes:
      text: the next characters.
      has_ended: whether these are the last.
      stopped_by: stop string that ended the text; None if none did.
    """

    text: str
    has_ended: bool = False
    stopped_by: str | None = None


def apply_stop_strings(
    drawn: Iterable[Sequence[str]], stops: Sequence[str], texts: int
) -> Iterator[list[Chunk]]:
    """Cut texts at stop strings while they are sampled.

    Characters that may begin a stop string are held back until that is known.

    Args:
      drawn: the next characters of every text in each item, as from a decoder. It is not read
        further once every text has ended.
      stops: strings of at least one character.
      texts: number of texts.

    Yields:
      The next piece of every text; in the last of these lists all have ended.
    """
    held, pieces = [""] * texts, [Chunk("")] * texts
    for item in drawn:
        for row, new in enumerate(item):
            if pieces[row].has_ended:
                pieces[row] = pieces[row]._replace(text="")
            else:
                pieces[row], held[row] = _cut(held[row] + new, stops)
        yield list(pieces)
        if all(piece.has_ended for piece in pieces):
            return
    yield [
        piece._replace(text="") if piece.has_ended else Chunk(rest, has_ended=True)
        for piece, rest in zip(pieces, held, strict=True)
    ]


def in_turn(batches: Iterable[Iterable[Sequence[Chunk]]], texts: int) -> Iterator[list[Chunk]]:
    """Join batches of texts that are sampled one after another.

    Args:
      batches: pieces of the texts of each batch, as from `apply_stop_strings`.
      texts: number of texts in all batches; what a last batch has beyond it is left out.

    Yields:
      The next piece of every text; those of later batches are empty.
    """
    ended: list[Chunk] = []
    for chunks in batches:
        row: Sequence[Chunk] = ()
        for row in chunks:
            waiting = [Chunk("")] * (texts - len(ended) - len(row))
            yield [*ended, *row, *waiting][:texts]
        ended += [chunk._replace(text="") for chunk in row]


def join_bytes(
    chunks: Iterable[Sequence[Chunk]], stops: Sequence[str], vocabulary: Vocabulary
) -> Iterator[list[Chunk]]:
    """Turn texts of bytes, given as symbols, into texts.

    The bytes of a character are held back until it is complete; bytes that are not UTF-8 become
    lone surrogates, see `charlm_jax.data.vocabulary`.

    Args:
      chunks: pieces of every text as symbols, as from `apply_stop_strings`.
      stops: stop strings as text.
      vocabulary: vocabulary of bytes.

    Yields:
      The next piece of every text.
    """
    texts = {vocabulary.to_symbols(stop): stop for stop in stops}
    new_decoder = codecs.getincrementaldecoder("utf-8")
    decoders: list[codecs.IncrementalDecoder] = []
    for row in chunks:
        decoders = decoders or [new_decoder("surrogateescape") for _ in row]
        yield [
            Chunk(
                decoder.decode(chunk.text.encode("latin-1"), chunk.has_ended),
                chunk.has_ended,
                None if chunk.stopped_by is None else texts[chunk.stopped_by],
            )
            for decoder, chunk in zip(decoders, row, strict=True)
        ]


def _cut(text: str, stops: Sequence[str]) -> tuple[Chunk, str]:
    """Return the chunk that is certain, and the rest, which may begin a stop string."""
    complete = [
        (start + len(stop), start, stop) for stop in stops if (start := text.find(stop)) >= 0
    ]
    if complete:
        _, start, stop = min(complete)
        return Chunk(text[:start], has_ended=True, stopped_by=stop), ""
    begun = [
        length
        for stop in stops
        for length in range(1, min(len(stop), len(text) + 1))
        if text.endswith(stop[:length])
    ]
    end = len(text) - max(begun, default=0)
    return Chunk(text[:end]), text[end:]


def check_stops(stops: Sequence[str], vocabulary: Vocabulary) -> None:
    """Refuse stop strings that no text can contain.

    Raises:
      CharlmError: a stop string has a character that the model does not know.
    """
    for stop in stops:
        vocabulary.encode(stop, what=f"stop={stop!r}", advice="remove it: it is never sampled")
