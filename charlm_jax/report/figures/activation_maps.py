"""Figures of a model's activations."""

from pathlib import Path

from charlm_jax.analysis.activations import Activations, LayerActivations
from charlm_jax.core.visible_text import visible_line
from charlm_jax.inference.run import Run
from charlm_jax.report.figures.attention_maps import draw_attention_distances, draw_attention_maps
from charlm_jax.report.figures.base import InlineFigure, save_figure, visible_symbol
from charlm_jax.report.figures.gate_maps import draw_gate_maps

_TITLE_CHARACTERS = 40
_NAME_CHARACTERS = 30


def save_activations(run: Run, activations: Activations, folder: Path, *, tag: str) -> list[Path]:
    """Draw the attention maps, gates and states of every layer, and all attention distances.

    Args:
      run: run whose model read a text.
      activations: its activations.
      folder: folder of the files; created if missing.
      tag: end of the file names. Existing files with these names are replaced.

    Returns:
      The files, `NAME_TAG.png` each.

    Raises:
      CharlmError: a file cannot be written.
    """
    symbols, files, distances = activations.symbols, [], {}
    for layer in activations.layers:
        if layer.distance_H is not None:
            files.append(folder / f"{layer.name}_attention_{tag}.png")
            save_figure(draw_layer_attention(run, layer, symbols), files[-1])
            distances[_layer_name(layer)] = layer.distance_H
        elif layer.states:
            files.append(folder / f"{layer.name}_gates_{tag}.png")
            save_figure(draw_layer_gates(run, layer, symbols), files[-1])
    if distances:
        files.append(folder / f"attention_distance_{tag}.png")
        figure = draw_attention_distances(
            distances,
            len(symbols),
            window=run.config.model.window,
            unit=run.vocabulary.unit,
            title=_title("mean attention distance", symbols, run),
        )
        save_figure(figure, files[-1])
    return files


def draw_layer_attention(
    run: Run, layer: LayerActivations, symbols: str, *, head: int | None = None
) -> InlineFigure:
    """Draw the attention weights of a layer.

    Args:
      run: run whose model read a text.
      layer: activations of an attention layer.
      symbols: the T symbols that were read.
      head: head to draw; all if None.
    """
    weights_THS, distance_H = layer.arrays["weights"], layer.distance_H
    assert distance_H is not None
    heads = range(len(distance_H)) if head is None else [head]
    return draw_attention_maps(
        weights_THS[:, heads],
        distance_H[heads],
        symbols,
        heads=heads,
        layer=_layer_name(layer),
        unit=run.vocabulary.unit,
        title=_layer_title(layer, symbols, run),
    )


def draw_layer_gates(run: Run, layer: LayerActivations, symbols: str) -> InlineFigure:
    """Draw the gates and states of a layer.

    Args:
      run: run whose model read a text.
      layer: activations of a recurrent layer.
      symbols: the T symbols that were read.
    """
    title = _layer_title(layer, symbols, run)
    return draw_gate_maps(layer.gates, layer.states, symbols, title=title)


def describe_source(run: Run) -> str:
    """Return a run's name in titles: its folder and checkpoint."""
    name = visible_line(run.workdir.resolve().name)
    return f"{name[:_NAME_CHARACTERS]}, {run.checkpoint_label}"


def _layer_name(layer: LayerActivations) -> str:
    return layer.name.replace("_", " ")


def _layer_title(layer: LayerActivations, symbols: str, run: Run) -> str:
    return _title(f"{_layer_name(layer)} ({layer.kind})", symbols, run)


def _title(subject: str, symbols: str, run: Run) -> str:
    text = symbols[:_TITLE_CHARACTERS]
    more = "…" if len(symbols) > len(text) else ""
    shown = "".join(c if c == " " else visible_symbol(c) for c in text)
    return f"{subject} of {describe_source(run)}, reading\n“{shown}{more}”"
