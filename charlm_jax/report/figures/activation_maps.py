"""Figures of a model's activations."""

from pathlib import Path

from charlm_jax.analysis.activations import Activations
from charlm_jax.report.figures.attention_maps import save_attention_distances, save_attention_maps
from charlm_jax.report.figures.base import visible_symbol
from charlm_jax.report.figures.gate_maps import save_gate_maps

_TITLE_CHARACTERS = 40


def save_activations(
    activations: Activations, folder: Path, *, tag: str, source: str
) -> list[Path]:
    """Draw the attention maps, gates and states of every layer, and all attention distances.

    Args:
      activations: activations of a model on a text.
      folder: folder of the files; created if missing.
      tag: end of the file names. Existing files with these names are replaced.
      source: name of the model in the titles.

    Returns:
      The files, `NAME_TAG.png` each.

    Raises:
      CharlmError: a file cannot be written.
    """
    text = activations.symbols[:_TITLE_CHARACTERS]
    more = "…" if len(activations.symbols) > len(text) else ""
    read = f"“{''.join(c if c == ' ' else visible_symbol(c) for c in text)}{more}”"
    files = []
    distances = {}
    for layer in activations.layers:
        name = layer.name.replace("_", " ")
        title = f"{name} ({layer.kind}) of {source}, reading\n{read}"
        if layer.distance_H is not None:
            files.append(folder / f"{layer.name}_attention_{tag}.png")
            save_attention_maps(
                layer.arrays["weights"],
                layer.distance_H,
                activations.symbols,
                files[-1],
                layer=name,
                title=title,
            )
            distances[name] = layer.distance_H
        elif layer.states:
            files.append(folder / f"{layer.name}_gates_{tag}.png")
            save_gate_maps(layer.gates, layer.states, activations.symbols, files[-1], title=title)
    if distances:
        files.append(folder / f"attention_distance_{tag}.png")
        title = f"mean attention distance of {source}, reading\n{read}"
        save_attention_distances(distances, len(activations.symbols), files[-1], title=title)
    return files
