"""Best length of training sequences.

Models learn a text at sequence lengths T from 5 to 640 characters, with the state reset before
every sequence or carried from batch to batch. A batch has 2,560 characters at every length, so all
runs of a preset make the same number of updates on the same number of characters; a second budget
gives all lengths the same training time. The learning rate of every arm is searched with equal
effort. The text is split 80/10/10: the second part is used to choose learning rates, checkpoints
and the best lengths, and all reported losses are on the third. Losses at different lengths are
compared on the same characters under the same evaluation protocols.

    python -m experiments.sequence_length --preset=minutes
    python -m experiments.sequence_length --preset=early --jobs=2
    python -m experiments.sequence_length --preset=trained --jobs=2
    python -m experiments.sequence_length --preset=second_text --corpus=war_and_peace.txt

A run that is on record (folder `records`) is not trained again, so the same command resumes an
interrupted study. `--from_records` trains nothing and computes the results from the records that
exist; the other seeds of an arm count once all of them are on record. Speeds are measured
once, at the beginning, when no other process should run.

The command writes results.json, tables.md and figures into runs/sequence_length-PRESET.

The first seed is trained with every learning rate of the search, and chooses the rate and the best
length. Comparisons over seeds are of the other seeds, which some arms are trained with.

Cost: `minutes` takes nine minutes on an otherwise idle 2-core AMD EPYC; all presets print an
estimate of their training before they train.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from charlm_jax.cli.exit_status import run_program
from charlm_jax.core.errors import CharlmError
from experiments.sequence_length.arms import PRESETS
from experiments.sequence_length.figures import FIGURES
from experiments.sequence_length.results import Results, build_results
from experiments.sequence_length.runs import Study
from experiments.sequence_length.tables import TITLE, write_results
from experiments.study_command import StudyFiles, open_study, study_parser

STUDY = StudyFiles("sequence_length", TITLE, FIGURES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is not on record, and write the results."""
    about = "Measure how the length of training sequences affects the loss."
    parser = study_parser(STUDY, about, PRESETS)
    parser.add_argument(
        "--corpus", default="", help="text, as in config.data.corpus (default: the preset's)"
    )
    options = parser.parse_args(arguments)

    def work() -> None:
        preset = PRESETS[options.preset]
        if options.corpus:
            preset = preset._replace(corpus=options.corpus)
        if not preset.corpus:
            raise CharlmError(f"--preset={options.preset} needs --corpus=PATH, a text of your own")
        found = open_study(STUDY, options, f"--corpus={Path(preset.corpus).name}")
        study = Study(preset, found.training)
        results = run_study(study) if found.train else read_study(study)
        write_results(results, found.folder, found.command)

    return run_program(parser.prog, work, goes_on=True)


def run_study(study: Study) -> Results:
    """Run all stages: speeds, text, learning rates, other runs."""
    speeds = study.speeds()  # before anything else runs
    print(study.describe_cost(speeds), flush=True)
    study.text()
    rates = {arm: found.value for arm, found in study.tune().items()}
    study.train(study.plan(rates, speeds))
    return read_study(study)


def read_study(study: Study) -> Results:
    """Compute the results of the runs that are on record.

    Raises:
      CharlmError: the speeds, the text, or all runs are missing.
    """
    text, speeds = study.records.text(), study.records.speeds()
    if text is None or speeds is None:
        raise CharlmError(f"{study.records.folder} has no records: run the study first")
    tuned = study.tune(train=False)
    plan = study.plan({arm: found.value for arm, found in tuned.items()}, speeds)
    runs = study.recorded(plan)
    if not runs:
        raise CharlmError(f"{study.records.folder} has no run of an arm whose search has ended")
    return build_results(study.preset, text, speeds, tuned, runs, study.counts(plan))


if __name__ == "__main__":
    sys.exit(main())
