"""Figures and pages of a run, for notebooks: the same as those of the commands.

    charlm_jax.plot_loss(run)
    charlm_jax.show_surprisal(run, "To be, or not to be")

A notebook shows what a function returns. `save_figure` of `charlm_jax.report.figures.base` saves a
figure.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from charlm_jax.analysis.activations import LayerActivations
from charlm_jax.comparison.readings import Reading, read_characters
from charlm_jax.comparison.run_facts import read_run_facts
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.files import user_path
from charlm_jax.core.folders import EXPORT, PAGE, own_file
from charlm_jax.core.limits import require_within
from charlm_jax.data.download import read_bytes
from charlm_jax.evaluation.protocol import EvalProtocol, Stream, Window
from charlm_jax.evaluation.text_score import default_scoring_mode
from charlm_jax.inference.run import Run, Runs, open_runs
from charlm_jax.report.figures.activation_maps import (
    describe_source,
    draw_layer_attention,
    draw_layer_gates,
)
from charlm_jax.report.figures.base import InlineFigure
from charlm_jax.report.figures.loss_curve import draw_losses_by_step
from charlm_jax.report.html.inline_page import InlinePage
from charlm_jax.report.html.page import page_html
from charlm_jax.report.text_page import COLOURED_CHARACTERS, surprisal_blocks

_LINE_PIXELS, _LINE_CHARACTERS = 23, 100  # of a coloured text in a notebook's column
_HEAD_PIXELS = 330  # title, notes and legend above a coloured text


def plot_loss(*runs: Runs) -> InlineFigure:
    """Draw training and held-out losses by step.

    Args:
      *runs: runs, their folders, or folders that contain runs, in one set of axes.

    Raises:
      CharlmError: no run is given, a folder has none, or one has no metrics.
    """
    found = [run for one in runs for run in open_runs(one)]
    if not found:
        raise CharlmError("no runs to plot: give at least one run")
    facts = [read_run_facts(run) for run in found]
    for run, fact in zip(found, facts, strict=True):
        if not fact.training and not fact.held_out:
            raise CharlmError(f"{run.workdir} has no losses to plot: its metrics have no row")
    return draw_losses_by_step(facts)


def plot_attention(
    run: Run, text: str, *, layer: int | None = None, head: int | None = None
) -> InlineFigure:
    """Draw the attention weights of a layer while a model reads a text, a map per head.

    Args:
      run: run whose model reads the text.
      text: at least one character of the model's vocabulary.
      layer: index of the layer, from 0 at the embedding; if None, the last with attention.
      head: index of one head; all if None.

    Raises:
      CharlmError: there is no such layer or head, or `Run.inspect` raises it.
    """
    seen = run.inspect(text)
    found = _find_layer(run, seen.layers, layer, "attention", lambda x: x.distance_H is not None)
    if head is not None:
        require_within("head", head, 0, found.arrays["weights"].shape[1] - 1)
    return draw_layer_attention(run, found, seen.symbols, head=head)


def plot_gates(run: Run, text: str, *, layer: int | None = None) -> InlineFigure:
    """Draw the gates and states of a recurrent layer while a model reads a text.

    Args:
      run: run whose model reads the text.
      text: at least one character of the model's vocabulary.
      layer: index of the layer, from 0 at the embedding; if None, the last recurrent layer.

    Raises:
      CharlmError: there is no such layer, or `Run.inspect` raises it.
    """
    seen = run.inspect(text)
    found = _find_layer(
        run, seen.layers, layer, "states", lambda x: x.distance_H is None and bool(x.states)
    )
    return draw_layer_gates(run, found, seen.symbols)


def _find_layer(
    run: Run,
    layers: Sequence[LayerActivations],
    index: int | None,
    what: str,
    has_it: Callable[[LayerActivations], bool],
) -> LayerActivations:
    """Return the layer of an index; the last that has what is drawn, if there is no index."""
    fits = [number for number, layer in enumerate(layers) if has_it(layer)]
    kinds = ", ".join(layer.kind for layer in layers)
    if not fits:
        raise CharlmError(f"{run.workdir} has no layer with {what}: its layers are {kinds}")
    if index is not None and index not in fits:
        known = " or ".join(map(str, fits))
        raise CharlmError(
            f"layer={index} of {run.workdir} has no {what}: it must be {known} (of {kinds})"
        )
    return layers[fits[-1] if index is None else index]


def show_surprisal(
    run: Run,
    text: str,
    protocol: EvalProtocol | None = None,
    *,
    unknown: str = "error",
    replacement: str = " ",
) -> InlinePage:
    """Colour every character of a text by its surprisal, with the top predictions on hover.

    Args:
      run: run whose model reads the text.
      text: at least two characters; the first 10,000 are coloured.
      protocol: evaluation protocol; if None, `Stream()`, or windows for a model with learned
        positions.
      unknown: treatment of characters that the model does not know: `error`, `drop` or
        `replace`.
      replacement: character that replaces them.

    Returns:
      A page that a notebook shows.

    Raises:
      CharlmError: the same errors as `Run.score`.
    """
    if protocol is None:
        is_whole = default_scoring_mode(run.model) == "stream"
        protocol = Stream() if is_whole else Window(run.config.evaluation_context)
    how: dict[str, Any] = {"protocol": protocol, "unknown": unknown, "replacement": replacement}
    reading = Reading(describe_source(run), run, run.score(text, **how), how)
    text = run.vocabulary.to_symbols(text)
    shown = read_characters(reading, text[:COLOURED_CHARACTERS])
    blocks = surprisal_blocks([reading], [shown], text)
    lines = sum(1 + len(line) // _LINE_CHARACTERS for line in text.splitlines())
    html = page_html(f"Surprise under {reading.label}", blocks, [])
    return InlinePage(html, _HEAD_PIXELS + _LINE_PIXELS * lines)


def show_page(path: Path | str) -> InlinePage:
    """Show a page that `write_report`, `charlm report` or `charlm score` wrote.

    Args:
      path: HTML file.

    Raises:
      CharlmError: there is no such file, or it is not a page of charlm.
    """
    path = user_path(path)
    page = read_bytes(path)
    kind = own_file(str(path))
    if kind == EXPORT:
        raise CharlmError(f"{path} runs a model: show it with charlm_jax.playground")
    if kind != PAGE:
        raise CharlmError(f"{path} is not a page of charlm: write_report writes one")
    return InlinePage(page.decode("utf-8", "replace"), height=10_000)
