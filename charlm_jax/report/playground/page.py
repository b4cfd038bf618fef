"""The playground: one HTML file with a model, and the JavaScript that runs it.

The file needs no network and forbids itself any: its content security policy allows the style and
the script of this package, by their hashes, and nothing else. What comes from a run is data: JSON
without markup, base64, and escaped text.
"""

import base64
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

from charlm_jax._version import __version__
from charlm_jax.core.errors import CharlmError, write_error
from charlm_jax.core.files import atomic_write, user_path
from charlm_jax.core.folders import EXPORT, MODEL_PAGE_MARK, own_file
from charlm_jax.core.notebook import notebook_progress
from charlm_jax.core.tree_hash import content_hash
from charlm_jax.core.trees import count_parameters
from charlm_jax.core.visible_text import visible_line
from charlm_jax.data.corpora import corpus_title
from charlm_jax.data.download import DownloadProgress
from charlm_jax.data.vocabulary import Vocabulary
from charlm_jax.inference.export import is_written
from charlm_jax.inference.run import Run
from charlm_jax.report.headline import introduce
from charlm_jax.report.html.heat_text import LEVELS
from charlm_jax.report.html.inline_page import InlinePage
from charlm_jax.report.html.rendering import make_environment, render
from charlm_jax.report.palette import SECOND_HUE, SURPRISE
from charlm_jax.report.playground.held_out import HeldOut, describe_held_out, measure_held_out
from charlm_jax.report.playground.model_data import model_data
from charlm_jax.report.playground.scripts import APP, ENGINE, join_scripts, read_file
from charlm_jax.storage.workdir import Workdir

_FRAME_PIXELS = 640  # height in a notebook
_PROMPT = "The "


def write_playground(
    run: Run,
    file: Path | str | None = None,
    *,
    precision: str = "float32",
    held_out: HeldOut | None = None,
) -> Path:
    """Write a page that runs a model in any browser, without a network.

    A file is never overwritten: an existing one must be identical to the new one.

    Args:
      run: run at one of its checkpoints, from `charlm_jax.load_run`.
      file: output file; if None, one named after the step in the run's `export/`.
      precision: precision in which the page stores matrices: float32, bfloat16 or int8.
      held_out: losses that the page names; if None, measured on the run's text, which takes up to
        a minute.

    Returns:
      Path of the file.

    Raises:
      CharlmError: the page cannot run the model, the file exists and is different, or it cannot be
        written.
    """
    path = page_file(run, file, precision=precision)
    html = playground_html(run, precision=precision, held_out=held_out).encode("utf-8")
    try:
        if not is_written(path, html, instead="another file"):
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, html)
    except OSError as error:
        raise write_error(path, error) from error
    return path


def playground(
    run: Run, *, precision: str = "float32", held_out: HeldOut | None = None
) -> InlinePage:
    """Show a page that runs a model, in a notebook.

    The page runs in a frame of its own, which cannot reach the notebook. The notebook's file grows
    by the page's size, some 1.4 times that of the weights.

    Args:
      run: run at one of its checkpoints.
      precision: precision in which the page stores matrices: float32, bfloat16 or int8.
      held_out: losses that the page names; if None, measured on the run's text, which takes up to
        a minute.

    Raises:
      CharlmError: the page cannot run the model.
    """
    html = playground_html(run, precision=precision, held_out=held_out)
    return InlinePage(html, _FRAME_PIXELS, runs_scripts=True)


def playground_html(
    run: Run, *, precision: str = "float32", held_out: HeldOut | None = None
) -> str:
    """Render the page of a model.

    Args:
      run: run at one of its checkpoints.
      precision: precision in which the page stores matrices: float32, bfloat16 or int8.
      held_out: losses that the page names; if None, measured on the run's text, which takes up to
        a minute.

    Raises:
      CharlmError: the page cannot run the model.
    """
    description, weights = model_data(run, precision=precision)
    if held_out is None:
        with notebook_progress() as report:
            held_out = measure_held_out(
                run, precision=precision, progress=DownloadProgress(), report=report
            )
    style = f"\n{render('theme.css')}{read_file('page.css')}{_colours()}"
    script = _wrap(join_scripts([*ENGINE, *APP]))
    title = visible_line(corpus_title(run.config.data.corpus))
    return _ENVIRONMENT.get_template("page.html.j2").render(
        marker=MODEL_PAGE_MARK,
        version=__version__,
        policy=content_policy(style, script),
        title=title,
        about=" ".join([_about(run, title, held_out), *_losses(run, precision, held_out)]),
        prompt=_first_prompt(run.vocabulary),
        symbols=len(run.vocabulary),
        unit=run.vocabulary.noun,
        context=held_out.context,
        blind=math.log2(len(run.vocabulary)),
        levels=LEVELS,
        style=style,
        script=script,
        description=script_json(description),
        weights=base64.b64encode(weights).decode(),
        checkpoint=run.checkpoint_label,
        weights_hash=content_hash(run.params),
    )


def page_file(run: Run, file: Path | str | None, *, precision: str = "float32") -> Path:
    """Return the file of a page, before anything is computed for it.

    Args:
      run: run at one of its checkpoints.
      file: output file; if None, one named after step, average and precision in `export/`.
      precision: precision in which the page stores matrices.

    Raises:
      CharlmError: it is a folder, a file of another kind, or not a path.
    """
    if file is None:
        name = f"step_{run.checkpoint}" + "_average" * (run.weights == "average")
        name += f"_{precision}" * (precision != "float32")
        return Workdir(run.workdir).export / f"{name}.html"
    path = user_path(file)
    if path.is_dir():
        raise CharlmError(f"{path} is a folder: give a file name")
    if os.path.lexists(path) and own_file(str(path)) != EXPORT:
        raise CharlmError(
            f"{path} already exists and is a different file: move it away, or name another file"
        )
    return path


def content_policy(style: str, script: str) -> str:
    """Return a policy that allows one style and one script, and no request.

    Args:
      style: content of the page's style element.
      script: content of its script element.
    """
    allowed = [
        f"{kind}-src 'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"
        for kind, code in (("style", style), ("script", script))
    ]
    return "; ".join(["default-src 'none'", *allowed, "base-uri 'none'", "form-action 'none'"])


def script_json(value: Any) -> str:
    r"""Return JSON in ASCII that cannot end a script element.

    >>> print(script_json({"name": "</script>"}))
    {"name":"\u003c/script\u003e"}
    """
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _colours() -> str:
    """Return the style of the levels: s1, s2, ...; below 0 n1, n2, ...; level 0 has no colour."""

    def rules(theme: str) -> str:
        hues = {"s": SURPRISE[theme], "n": SECOND_HUE[theme]}
        return "".join(
            f".{letter}{level} {{ background: {colour}; }}\n"
            for letter, colours in hues.items()
            for level, colour in enumerate(colours, start=1)
        )

    return f"{rules('light')}@media (prefers-color-scheme: dark) {{\n{rules('dark')}}}\n"


def _wrap(code: str) -> str:
    """Return a script in a block of its own, so that its names are not global."""
    return f'\n"use strict";\n{{\n{code}}}\n'


def _about(run: Run, title: str, held_out: HeldOut) -> str:
    """Return sentences that say what the model is."""
    unit = run.vocabulary.noun
    text = title
    if held_out.training is not None:
        text = f"passages from {held_out.training:,} {unit}s of {title}"
    model = introduce(unit, run.config.model.layers, count_parameters(run.params), text)
    return (
        f"{model}. It predicts the next {unit} of a text from those before it, and knows "
        f"{len(run.vocabulary)} {unit}s."
    )


def _losses(run: Run, precision: str, held_out: HeldOut) -> list[str]:
    return describe_held_out(held_out, precision=precision, unit=run.vocabulary.noun)


def _first_prompt(vocabulary: Vocabulary) -> str:
    """Return the known symbols of `The `; if they are blank, a character of the model."""
    symbols = vocabulary.whole_characters or vocabulary.symbols
    known = "".join(symbol for symbol in _PROMPT if symbol in symbols)
    visible = (symbol for symbol in symbols if symbol.isalnum())
    return known if known.strip() else next(visible, symbols[0])


_ENVIRONMENT = make_environment("charlm_jax.report.playground", "")
