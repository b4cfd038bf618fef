"""Output of `charlm sample`: JSON, or texts one below the other or side by side."""

import argparse
import dataclasses
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from charlm_jax.cli.output import note, show
from charlm_jax.core.errors import CharlmError

if TYPE_CHECKING:
    from charlm_jax.cli.columns import Sheet
    from charlm_jax.data.vocabulary import Vocabulary
    from charlm_jax.inference.run import Run
    from charlm_jax.sampling.params import SamplingParams
    from charlm_jax.sampling.stop_strings import Chunk


@dataclasses.dataclass(frozen=True)
class SampleInfo:
    """Metadata of one sampled text.

    Attributes:
      sampling: sampling parameters.
      index: index among the samples of the same scale.
      prompt: text that the sample continues.
    """

    sampling: "SamplingParams"
    index: int
    prompt: str


def describe_source(run: "Run", mode: str | None) -> str:
    """Return a one-line description of the run, checkpoint and mode sampled from."""
    return f"{run.workdir}, {run.checkpoint_label}, {mode or run.default_mode}"


def prompt_as_read(
    prompt: str, sampling: "SamplingParams", vocabulary: "Vocabulary"
) -> tuple[str, str]:
    """Return a prompt as the model reads it, and a note on unknown characters; empty if none."""
    treatment = {"unknown": sampling.unknown, "replacement": sampling.replacement}
    read = vocabulary.decode(vocabulary.encode(prompt, **treatment))
    unknown = int((~vocabulary.knows(vocabulary.to_symbols(prompt))).sum())
    if not unknown:
        return read, ""
    became = "left out" if sampling.unknown == "drop" else "replaced"
    noun, were = (vocabulary.noun, "was") if unknown == 1 else (vocabulary.unit, "were")
    return read, f"{unknown:,} unknown {noun} of the prompt {were} {became}"


def sample_infos(
    sampling: "SamplingParams", prompt: str, *, scales: Sequence[float], samples: int
) -> list[SampleInfo]:
    """Return the metadata of the texts of `TrainedModel.sample`, in its order."""
    return [
        SampleInfo(dataclasses.replace(sampling, scale=scale), index, prompt)
        for scale in scales
        for index in range(samples)
    ]


def shown_chunks(
    chunks: Iterable[Sequence["Chunk"]], vocabulary: "Vocabulary"
) -> Iterator[list["Chunk"]]:
    """Yield the pieces of texts as they are printed."""
    for row in chunks:
        yield [chunk._replace(text=vocabulary.shown(chunk.text)) for chunk in row]


def print_json(
    infos: Sequence[SampleInfo], chunks: Iterable[Sequence["Chunk"]], vocabulary: "Vocabulary"
) -> None:
    """Print one JSON object per text, as soon as it and those before have ended.

    A text of bytes is also printed in hexadecimal.
    """
    texts, printed = [""] * len(infos), 0
    for row in chunks:
        texts = [text + chunk.text for text, chunk in zip(texts, row, strict=True)]
        while printed < len(infos) and row[printed].has_ended:
            text, chunk = texts[printed], row[printed]
            fields = {"text": vocabulary.shown(text), "stopped_by": chunk.stopped_by}
            if vocabulary.unit == "bytes":
                fields["bytes"] = vocabulary.to_symbols(text).encode("latin-1").hex()
            show(json.dumps({**_to_json(infos[printed]), **fields}))
            printed += 1


def _to_json(info: SampleInfo) -> dict[str, Any]:
    """Return the metadata as JSON fields; infinity, which JSON lacks, becomes "inf"."""
    from charlm_jax.sampling.categorical import temperature

    sampling = info.sampling
    fields = {
        "scale": sampling.scale,
        "temperature": temperature(sampling.scale),
        **sampling.truncations,
        "seed": sampling.seed,
        "index": info.index,
        "prompt": info.prompt,
    }
    infinity = float("inf")
    return {name: "inf" if value == infinity else value for name, value in fields.items()}


def choose_column_width(options: argparse.Namespace) -> int:
    """Return the width of each column in cells; 0 for texts one below the other.

    Raises:
      CharlmError: columns were requested and would be too narrow.
    """
    from charlm_jax.cli.columns import LEAST_WIDTH, column_width

    columns = len(options.scale)
    if options.layout == "rows" or (
        options.layout == "auto" and (columns == 1 or not sys.stdout.isatty())
    ):
        return 0
    terminal_width = shutil.get_terminal_size().columns
    width = column_width(columns, terminal_width)
    if width >= LEAST_WIDTH:
        return width
    if options.layout == "columns":
        raise CharlmError(
            f"--layout=columns does not fit: {columns} columns in {terminal_width} characters are "
            f"{max(width, 0)} wide each, and at least {LEAST_WIDTH} are needed"
        )
    return 0


def print_texts(
    infos: Sequence[SampleInfo], chunks: Iterable[Sequence["Chunk"]], width: int
) -> None:
    """Print texts while they are sampled; the heading of a single text goes to standard error."""
    from charlm_jax.cli.columns import lay_out

    if len(infos) == 1 and not width:
        note(_heading(infos[0]))
    for text in lay_out(chunks, _columns(infos, width) if width else _plain(infos)):
        show(text, end="")


def _plain(infos: Sequence[SampleInfo]) -> "list[Sheet]":
    from charlm_jax.cli.columns import Plain

    if len(infos) == 1:
        return [Plain(0, above=infos[0].prompt, below="\n")]
    return [
        Plain(number, above=f"{_heading(info)}\n{info.prompt}", below="\n\n")
        for number, info in enumerate(infos)
    ]


def _columns(infos: Sequence[SampleInfo], width: int) -> "list[Sheet]":
    from charlm_jax.cli.columns import Columns

    samples = max(info.index for info in infos) + 1
    return [
        Columns(
            range(sample, len(infos), samples),
            title=f"--- {_circumstances(infos[sample])}",
            headings=[
                _scale(info.sampling.scale).replace(" (", "\n(") for info in infos[sample::samples]
            ],
            prompt=infos[sample].prompt,
            width=width,
        )
        for sample in range(samples)
    ]


def _heading(info: SampleInfo) -> str:
    return f"--- {_scale(info.sampling.scale)}, {_circumstances(info)}"


def _scale(scale: float) -> str:
    from charlm_jax.sampling.categorical import temperature

    return f"scale {scale:g} (temperature {temperature(scale):g})"


def _circumstances(info: SampleInfo) -> str:
    """Describe the settings shared by all scales."""
    unused = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
    truncations = info.sampling.truncations.items()
    used = "".join(f"{name} {value}, " for name, value in truncations if value != unused[name])
    return f"{used}seed {info.sampling.seed}, sample {info.index}"
