"""What does the scale factor do to the text that a model draws?

A trained run draws 50 samples of 500 characters at each of eleven scale factors, with the same
noise at all of them. They are set beside as much held-out human text, and the held-out loss under
every scale says how sure the model should have been. Several runs are measured alike, such as a run
at its best step and at its last.

    python -m experiments.scale_factor --workdir=runs/lstm
    python -m experiments.scale_factor --workdir=runs/lstm --workdir=runs/lstm@latest
    python -m experiments.scale_factor --workdir=runs/lstm --config=sweeps/scale_factor:policies

Cost: 30 s for the textbook's LSTM, alone on a 2-core AMD EPYC with AVX2; 9 minutes of CPU time for
the three runs of docs/scale_factor/README.md under all policies.

Expected, for `tutorial_heldout` at its best epoch: the held-out loss is least at scale 0.882
[0.869, 0.895], what is drawn is as uncertain as that text at 0.896 [0.877, 0.916], and text drawn
at scale 1 is most like it (an excess of 0.045 bits), that drawn at 0.85 or 1.2 not clearly less.

It writes README.md, results.json, samples.json and three figures into RUN/scale_factor, or, for
several runs, into runs/scale_factor.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from charlm_jax.cli.exit_status import run_program
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.json_files import to_jsonable, write_json
from charlm_jax.inference.run import Run, load_run
from charlm_jax.storage.workdir import Workdir
from experiments.markdown import refuse_other_page
from experiments.scale_factor.figures import (
    PLACES,
    save_entropy_by_place,
    save_picture,
    save_reliability,
)
from experiments.scale_factor.measures import (
    GRID_A,
    Findings,
    Human,
    Text,
    build_human,
    choose_prompt,
    measure_run,
    name_runs,
)
from experiments.scale_factor.page import TITLE, page
from experiments.scale_factor.settings import Draws, Setting, load_settings

FILES = (
    *("results.json", "samples.json"),
    *("scale_factor.png", "reliability.png", "entropy_by_place.png"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw, measure, and write the results."""
    typed = sys.argv[1:] if arguments is None else list(arguments)
    parser = _parser()
    options, rest = parser.parse_known_args(typed)
    odd = [text for text in rest if not text.startswith("--config.")]
    if odd:
        parser.error(f"unknown argument {odd[0]}")
    changes = [text.removeprefix("--config.") for text in rest]
    command = shlex.join(["python", "-m experiments.scale_factor", *typed])
    return run_program(parser.prog, lambda: study(options, changes, command))


def study(options: argparse.Namespace, changes: Sequence[str], command: str) -> None:
    """Draw from every run that is named, measure, and write the results."""
    runs = [_load(text) for text in options.workdir]
    if len({(run.workdir.resolve(), run.checkpoint) for run in runs}) < len(runs):
        raise CharlmError("a run is named twice: name each once")
    if options.out == "":
        raise CharlmError("--out is an empty text: name a folder")
    draws, settings = load_settings(options.config, changes)
    own = runs[0].workdir / "scale_factor" if len(runs) == 1 else "runs/scale_factor"
    folder = Workdir(options.out or own).path
    refuse_other_page(folder, TITLE, command, beside=FILES)
    draws = draws._replace(prompt=choose_prompt(runs, draws.prompt, options.split))
    findings = measure_runs(runs, draws, settings, split=options.split)
    report(findings, draws, folder, command)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="What does the scale factor do?",
        usage=argparse.SUPPRESS,  # so that a mistake is told in one line
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--workdir",
        action="append",
        required=True,
        metavar="RUN[@CHECKPOINT]",
        help="a run, at best, latest or a step (default: best); may be given more than once",
    )
    add(
        "--config",
        default="sweeps/scale_factor",
        metavar="NAME|FILE[:ARG]",
        help="the settings (default: %(default)s); --config.FIELD=VALUE changes a field",
    )
    add("--split", default="valid", help="the held-out part: valid or test (default: valid)")
    add("--out", metavar="DIR", help="default: RUN/scale_factor; runs/scale_factor for several")
    return parser


def _load(text: str) -> Run:
    folder, at, checkpoint = text.rpartition("@")
    if not at or Path(text).is_dir():
        return load_run(text)
    return load_run(folder, checkpoint=checkpoint)


def measure_runs(
    runs: Sequence[Run], draws: Draws, settings: Sequence[Setting], *, split: str
) -> list[Findings]:
    """Every run; those of one text are judged by the same human text."""
    human: dict[str, Human] = {}
    findings = []
    for name, run in zip(name_runs(runs), runs, strict=True):
        fingerprint = json.dumps(run.dataset().fingerprint, sort_keys=True, default=str)
        if fingerprint not in human:
            human[fingerprint] = build_human(run, draws, split)
        findings.append(measure_run(name, run, draws, settings, human[fingerprint], split=split))
    return findings


def report(findings: Sequence[Findings], draws: Draws, folder: Path, command: str) -> None:
    """Write numbers, samples, figures and the page, and print the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    results, texts, *pictures = (folder / name for name in FILES)
    words = page(findings, pictures, draws=draws, command=command)
    (folder / "README.md").write_text(words, encoding="utf-8")  # first: it says whose the rest is
    write_json(results, as_json(findings, draws, command))
    write_json(texts, samples(findings))
    about = f"{draws.samples} samples of {draws.characters} characters at each setting"
    picture, by_probability, by_place = pictures
    save_picture(findings, picture, about=about)
    save_reliability(findings, by_probability)
    save_entropy_by_place(findings, by_place, about=about)
    print(f"{words}\n{folder / 'README.md'}")


def as_json(findings: Sequence[Findings], draws: Draws, command: str) -> dict[str, Any]:
    """The numbers, in JSON's terms."""
    runs = [
        {
            "name": found.name,
            "held_out": _without(found.held_out, "least_loss_N"),
            "human": _text_as_json(found.human),
            "even": to_jsonable(found.even),
            "settings": [_text_as_json(text) for text in found.texts],
        }
        for found in findings
    ]
    return {
        "command": command,
        "draws": to_jsonable(draws),
        "scales": GRID_A.tolist(),
        "runs": runs,
    }


def _text_as_json(text: Text) -> dict[str, Any]:
    by_place = to_jsonable(text.entropy_by_place(PLACES))
    return _without(text, "samples", "entropy_ST") | {"entropy_by_place": by_place}


def _without(values: NamedTuple, *names: str) -> dict[str, Any]:
    return {name: to_jsonable(x) for name, x in values._asdict().items() if name not in names}


def samples(findings: Sequence[Findings]) -> dict[str, dict[str, list[str]]]:
    """All texts, by run and setting."""
    return {
        found.name: {text.setting.name: list(text.samples) for text in found.texts}
        for found in findings
    }


if __name__ == "__main__":
    sys.exit(main())
