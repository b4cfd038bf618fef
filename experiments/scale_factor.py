"""What does the scale factor do to the text that a model draws?

A trained run draws 50 samples of 500 characters at each of eleven scale factors, with the same
noise at all of them. They are set beside as much held-out human text, and the held-out loss under
every scale says how sure the model should have been. Several runs are measured alike, such as a run
at its best step and at its last.

    python experiments/scale_factor.py --workdir=runs/lstm
    python experiments/scale_factor.py --workdir=runs/lstm --workdir=runs/lstm@latest
    python experiments/scale_factor.py --workdir=runs/lstm --config=sweeps/scale_factor:policies

Cost: 39 s for the textbook's LSTM, alone on a 2-core AMD EPYC with AVX2; 14 minutes of CPU time for
the three runs of docs/scale_factor/README.md under all policies.

Expected, for `tutorial_heldout` at its best epoch: the held-out loss is least at scale 0.882
[0.868, 0.895], what is drawn is as uncertain as that text at 0.886 [0.867, 0.906], and text drawn
at scale 1.2 is most like it, with a divergence of 0.276 bits.

It writes README.md, results.json, samples.json and three figures into RUN/scale_factor, or, for
several runs, into runs/scale_factor.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from charlm_jax.plain import plain
from charlm_jax.program import carry_out
from charlm_jax.report.scale_factor import save_entropy_by_place, save_picture, save_reliability
from charlm_jax.run import Run, load_run
from charlm_jax.studies.markdown import refuse_other_page
from charlm_jax.studies.scale_factor.measures import (
    GRID_A,
    Findings,
    build_run_judge,
    choose_prompt,
    measure_run,
    name_runs,
)
from charlm_jax.studies.scale_factor.page import TITLE, page
from charlm_jax.studies.scale_factor.settings import Draws, Setting, load_settings
from charlm_jax.text_judge import TextJudge
from charlm_jax.workdir import Workdir, write_json


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw, measure, and write the results."""
    typed = sys.argv[1:] if arguments is None else list(arguments)
    parser = _parser()
    options, rest = parser.parse_known_args(typed)
    odd = [text for text in rest if not text.startswith("--config.")]
    if odd:
        parser.error(f"unknown argument {odd[0]}")
    changes = [text.removeprefix("--config.") for text in rest]
    command = shlex.join(["python", "experiments/scale_factor.py", *typed])
    return carry_out(parser.prog, lambda: study(options, changes, command))


def study(options: argparse.Namespace, changes: Sequence[str], command: str) -> None:
    """Draw from every run that is named, measure, and write the results."""
    runs = [_load(text) for text in options.workdir]
    draws, settings = load_settings(options.config, changes)
    own = runs[0].workdir / "scale_factor" if len(runs) == 1 else "runs/scale_factor"
    folder = Workdir(options.out or own).path
    refuse_other_page(folder, TITLE, command)
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
    judges: dict[str, TextJudge] = {}
    findings = []
    for name, run in zip(name_runs(runs), runs, strict=True):
        fingerprint = json.dumps(run.dataset().fingerprint, sort_keys=True, default=str)
        if fingerprint not in judges:
            judges[fingerprint] = build_run_judge(run, draws, split)
        findings.append(measure_run(name, run, draws, settings, judges[fingerprint], split=split))
    return findings


def report(findings: Sequence[Findings], draws: Draws, folder: Path, command: str) -> None:
    """Write numbers, samples, figures and the page, and print the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", as_json(findings, draws, command))
    write_json(folder / "samples.json", samples(findings))
    about = f"{draws.samples} samples of {draws.characters} characters at each setting"
    pictures = [
        save_picture(findings, folder / "scale_factor.png", about=about),
        save_reliability(findings, folder / "reliability.png"),
        save_entropy_by_place(findings, folder / "entropy_by_place.png", about=about),
    ]
    words = page(findings, pictures, draws=draws, command=command)
    file = folder / "README.md"
    file.write_text(words, encoding="utf-8")
    print(f"{words}\n{file}")


def as_json(findings: Sequence[Findings], draws: Draws, command: str) -> dict[str, Any]:
    """The numbers, in JSON's terms."""
    runs = []
    for found in findings:
        held_out = {k: plain(v) for k, v in found.held_out._asdict().items() if k != "least_loss_N"}
        texts = [
            {k: plain(v) for k, v in text._asdict().items() if k != "samples"}
            for text in found.texts
        ]
        runs.append(
            {
                "name": found.name,
                "held_out": held_out,
                "human": plain(found.human),
                "even": plain(found.even),
                "settings": texts,
            }
        )
    return {"command": command, "draws": plain(draws), "scales": GRID_A.tolist(), "runs": runs}


def samples(findings: Sequence[Findings]) -> dict[str, dict[str, list[str]]]:
    """All texts, by run and setting."""
    return {
        found.name: {text.setting.name: list(text.samples) for text in found.texts}
        for found in findings
    }


if __name__ == "__main__":
    sys.exit(main())
