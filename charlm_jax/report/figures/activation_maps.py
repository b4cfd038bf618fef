"""The figures of what happens inside a model."""

from pathlib import Path

from charlm_jax.analysis.activations import Activations
from charlm_jax.report.figures.attention_maps import save_attention_distances, save_attention_maps
from charlm_jax.report.figures.base import shown
from charlm_jax.report.figures.gate_maps import save_gate_maps

_TITLE_CHARACTERS = 40


def save_inside(inside: Activations, folder: Path, *, tag: str, source: str) -> list[Path]:
    """Draw every layer: attention as maps, gates and states as maps, distances in one figure.

    Args:
      inside: a model while it read a text.
      folder: where to; it is made.
      tag: how the names of the files end. A file that has the name already is replaced.
      source: which model it is, for the titles.

    Returns:
      The files, `NAME_TAG.png` each.

    Raises:
      CharlmError: a file cannot be written.
    """
    text = inside.symbols[:_TITLE_CHARACTERS]
    more = "…" if len(inside.symbols) > len(text) else ""
    read = f"“{''.join(c if c == ' ' else shown(c) for c in text)}{more}”"
    files = []
    distances = {}
    for layer in inside.layers:
        name = layer.name.replace("_", " ")
        title = f"{name} ({layer.kind}) of {source}, reading\n{read}"
        if layer.distance_H is not None:
            files.append(folder / f"{layer.name}_attention_{tag}.png")
            weights_THS = layer.arrays["weights"]
            save_attention_maps(weights_THS, inside.symbols, files[-1], layer=name, title=title)
            distances[name] = layer.distance_H
        elif layer.states:
            files.append(folder / f"{layer.name}_gates_{tag}.png")
            save_gate_maps(layer.gates, layer.states, inside.symbols, files[-1], title=title)
    if distances:
        files.append(folder / f"attention_distance_{tag}.png")
        title = f"mean attention distance of {source}, reading\n{read}"
        save_attention_distances(distances, len(inside.symbols), files[-1], title=title)
    return files
