"""Effect of the scale factor on sampled text.

A trained run generates 50 samples of 500 characters at each of eleven scale factors, all with the
same noise. They are compared with the same amount of held-out human text. The held-out loss at
every scale shows how well the model is calibrated. Several runs can be measured in the same way,
such as a run at its best step and at its last.

    python -m experiments.scale_factor --workdir=runs/lstm
    python -m experiments.scale_factor --workdir=runs/lstm --workdir=runs/lstm@latest
    python -m experiments.scale_factor --workdir=runs/lstm --settings=policies

`--settings=policies` adds eleven settings each of top-k, top-p and min-p, at scale 1. Runs must be
of characters, not bytes, and able to carry their state.

Cost: 30 s for the textbook's LSTM, alone on a 2-core AMD EPYC with AVX2; 9 minutes of CPU time for
the three runs of docs/studies/scale_factor/index.md under all policies.

Expected, for `tutorial_heldout` at its best epoch: the held-out loss is smallest at scale 0.882
[0.869, 0.895], the entropy of samples equals that loss at 0.896 [0.877, 0.916], and samples at
scale 1 are closest to the text (an excess of 0.045 bits), though not clearly closer than those at
0.85 and 1.2.

Output: results.json, samples.json, tables.md and three figures in RUN/scale_factor, or in
runs/scale_factor for several runs.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from charlm_jax.cli.exit_status import run_program
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.files import atomic_write
from charlm_jax.core.json_files import to_jsonable, write_json
from charlm_jax.inference.run import Run, load_run
from charlm_jax.storage.workdir import Workdir
from experiments.results_folder import RESULTS, TABLES, refuse_other_results
from experiments.scale_factor.figures import (
    PLACES,
    save_entropy_by_place,
    save_picture,
    save_reliability,
)
from experiments.scale_factor.measures import (
    GRID_A,
    HumanText,
    MeasuredText,
    RunResults,
    build_human_text,
    check_runs,
    choose_prompt,
    measure_run,
    name_runs,
)
from experiments.scale_factor.settings import (
    SETTINGS,
    SamplePlan,
    Setting,
    check_plan,
    truncated,
)
from experiments.scale_factor.tables import TITLE, tables

STUDY = "scale_factor"
SAMPLES = "samples.json"
FIGURES = ("scale_factor.png", "reliability.png", "entropy_by_place.png")


def main(arguments: Sequence[str] | None = None) -> int:
    """Sample, measure and write the results."""
    typed = sys.argv[1:] if arguments is None else list(arguments)
    parser = _parser()
    options = parser.parse_args(typed)
    command = shlex.join(["python", "-m", f"experiments.{STUDY}", *typed])
    return run_program(parser.prog, lambda: study(options, command))


def study(options: argparse.Namespace, command: str) -> None:
    """Sample from every given run, measure and write the results."""
    runs = [_load(text) for text in options.workdir]
    if len({(run.workdir.resolve(), run.checkpoint) for run in runs}) < len(runs):
        raise CharlmError("a run is given twice: give each run once")
    if options.out == "":
        raise CharlmError("--out is empty: give a folder")
    check_runs(runs)
    plan = SamplePlan(samples=options.samples, characters=options.characters, seed=options.seed)
    check_plan(plan)
    settings = truncated(
        SETTINGS[options.settings],
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
    )
    own = runs[0].workdir / "scale_factor" if len(runs) == 1 else "runs/scale_factor"
    folder = Workdir(options.out or own).path
    files = [RESULTS, SAMPLES, TABLES, *FIGURES]
    refuse_other_results(folder, study=STUDY, title=TITLE, command=command, files=files)
    plan = plan._replace(prompt=choose_prompt(runs, options.prompt, options.split))
    results = measure_runs(runs, plan, settings, split=options.split)
    write_results(results, plan, folder, command)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"experiments.{STUDY}",
        description="Measure how the scale factor changes sampled text.",
        usage=argparse.SUPPRESS,  # one-line errors
        allow_abbrev=False,
    )
    add, plan = parser.add_argument, SamplePlan()
    add(
        "--workdir",
        action="append",
        required=True,
        metavar="RUN[@CHECKPOINT]",
        help="run, with best, latest or a step (default: best); may be given several times",
    )
    add(
        "--settings",
        choices=tuple(SETTINGS),
        default="scales",
        help="eleven scales only, or truncations as well (default: %(default)s)",
    )
    add(
        "--prompt",
        help=f"text that all samples continue (default: {plan.prompt!r}, or the start of the "
        f"held-out part if a run does not know its characters)",
    )
    add(
        "--samples",
        type=int,
        default=plan.samples,
        help="samples per setting (default: %(default)s)",
    )
    add(
        "--characters",
        type=int,
        default=plan.characters,
        help="characters per sample (default: %(default)s)",
    )
    add("--seed", type=int, default=plan.seed, help="random seed (default: %(default)s)")
    add("--top_k", type=int, help="top-k truncation at every scale")
    add("--top_p", type=float, help="top-p truncation at every scale")
    add("--min_p", type=float, help="min-p truncation at every scale")
    add(
        "--split",
        choices=("valid", "test"),
        default="valid",
        help="held-out part (default: %(default)s)",
    )
    add(
        "--out",
        metavar="DIR",
        help="default: RUN/scale_factor, or runs/scale_factor for several runs",
    )
    return parser


def _load(text: str) -> Run:
    folder, at, checkpoint = text.rpartition("@")
    if not at or Path(text).is_dir():
        return load_run(text)
    return load_run(folder, checkpoint=checkpoint)


def measure_runs(
    runs: Sequence[Run], plan: SamplePlan, settings: Sequence[Setting], *, split: str
) -> list[RunResults]:
    """Measure every run; runs on the same text are compared with the same human text."""
    human: dict[str, HumanText] = {}
    results = []
    for name, run in zip(name_runs(runs), runs, strict=True):
        fingerprint = run.dataset().fingerprint
        if fingerprint not in human:
            human[fingerprint] = build_human_text(run, plan, split)
        results.append(measure_run(name, run, plan, settings, human[fingerprint], split=split))
    return results


def write_results(
    results: Sequence[RunResults], plan: SamplePlan, folder: Path, command: str
) -> None:
    """Write results.json, the samples, the figures and tables.md, and print the tables."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RESULTS, to_json(results, plan, command))  # first: it marks the folder
    write_json(folder / SAMPLES, samples_of(results))
    about = f"{plan.samples} samples of {plan.characters} characters at each setting"
    picture, by_probability, by_place = (folder / name for name in FIGURES)
    save_picture(results, picture, about=about)
    save_reliability(results, by_probability)
    save_entropy_by_place(results, by_place, about=about)
    text = tables(results, plan=plan, command=command)
    atomic_write(folder / TABLES, text.encode())
    print(f"{text}\n{folder / TABLES}")


def to_json(results: Sequence[RunResults], plan: SamplePlan, command: str) -> dict[str, Any]:
    """Return the content of results.json."""
    runs = [
        {
            "name": run.name,
            "held_out": _without(run.held_out, "least_loss_N"),
            "human": _text_to_json(run.human),
            "even": to_jsonable(run.even),
            "settings": [_text_to_json(text) for text in run.texts],
        }
        for run in results
    ]
    return {
        "command": command,
        "draws": to_jsonable(plan),
        "scales": GRID_A.tolist(),
        "runs": runs,
    }


def _text_to_json(text: MeasuredText) -> dict[str, Any]:
    by_place = to_jsonable(text.entropy_by_place(PLACES))
    return _without(text, "samples", "entropy_ST") | {"entropy_by_place": by_place}


def _without(values: NamedTuple, *names: str) -> dict[str, Any]:
    return {name: to_jsonable(x) for name, x in values._asdict().items() if name not in names}


def samples_of(results: Sequence[RunResults]) -> dict[str, dict[str, list[str]]]:
    """Return all samples, by run and setting."""
    return {
        run.name: {text.setting.name: list(text.samples) for text in run.texts} for run in results
    }


if __name__ == "__main__":
    sys.exit(main())
