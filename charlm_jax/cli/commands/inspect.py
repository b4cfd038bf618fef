"""`charlm inspect`."""

import argparse
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlm_jax.cli.commands.common_flags import add_run, add_unknown, load, read_unknown
from charlm_jax.cli.output import note, show
from charlm_jax.cli.parser import nonempty_path
from charlm_jax.cli.typed_text import ESCAPES_HELP, needs_escapes, typed_text
from charlm_jax.core.files import user_path

if TYPE_CHECKING:
    from charlm_jax.analysis.activations import Activations
    from charlm_jax.inference.run import Run

HELP = "Plot attention weights and gate activations of a model on a text."


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add_run(command)
    add = command.add_argument
    add(
        "--text",
        required=True,
        type=typed_text,
        help=f"text that the model reads ({ESCAPES_HELP})",
    )
    add(
        "--out",
        type=nonempty_path,
        metavar="DIR",
        help="output folder (default: inspect/ in the run's folder); file names end in the step "
        "and a hash of run and text, so that only the same command replaces a figure",
    )
    add_unknown(command, "text")
    add("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> None:
    """Run a model over a text and plot its activations."""
    run = load(options)
    inside = run.inspect(options.text, **read_unknown(options))
    from charlm_jax.report.figures.activation_maps import save_activations
    from charlm_jax.storage.workdir import Workdir

    own = Workdir(run.workdir).inspect
    folder = own if options.out is None else user_path(options.out)
    files = save_activations(run, inside, folder, tag=_tag(run, inside))
    if options.json:
        show(json.dumps(_inside_as_json(run, inside, options.text, files)))
        return
    if needs_escapes(options.text):
        note(f"text {options.text!r}")
    for file in files:
        show(file)
    distances = {layer.name: layer.distance_H for layer in inside.layers}
    rows = {name: d_H for name, d_H in distances.items() if d_H is not None}
    if rows:
        most, width = max(map(len, rows.values())), max(map(len, rows))
        show(f"\nmean attention distance in {run.vocabulary.unit}, by head")
        show(" " * width + "".join(f"{head:>7}" for head in range(most)))
    for name, distance_H in rows.items():
        show(f"{name:<{width}}" + "".join(f"{distance:>7.2f}" for distance in distance_H))


def _tag(run: "Run", inside: "Activations") -> str:
    """Return the suffix of figure names, unique to the run, checkpoint, weights and text."""
    read = f"{run.weights}\n{inside.symbols}".encode("utf-8", "surrogatepass")
    code = hashlib.sha256(os.fsencode(run.workdir.resolve()) + b"\n" + read).hexdigest()[:8]
    return f"step_{run.checkpoint}_{code}"


def _inside_as_json(
    run: "Run", inside: "Activations", text: str, files: Iterable[Path]
) -> dict[str, Any]:
    layers = []
    for layer in inside.layers:
        arrays = {**layer.gates, **layer.states}
        row: dict[str, Any] = {"name": layer.name, "kind": layer.kind}
        if layer.distance_H is not None:
            row["mean_attention_distance"] = layer.distance_H.tolist()
        if arrays:
            row["unit_means"] = {name: x.mean(axis=0).tolist() for name, x in arrays.items()}
        layers.append(row)
    return {
        "text": text,
        "workdir": str(run.workdir),
        "checkpoint": run.checkpoint,
        "weights": run.weights,
        "symbols": list(inside.symbols),
        "guesses": inside.top_predictions,
        "files": [str(file) for file in files],
        "layers": layers,
    }
