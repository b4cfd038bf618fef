"""Which layers learn which skill.

Models of two equal blocks, which differ in their layers alone and have about as many parameters,
learn synthetic texts that need one skill each (`charlm_jax.data.skills`). The best loss of every
character is known. The measure is the loss above it on the answers, the characters whose
distribution only the skill tells, as a share of that of a predictor which knows the last character
alone: 0 for a model that has the skill, 1 for one that has learnt nothing of it. Texts are split
80/10/10; the second part is used to choose learning rates, with equal effort for every arm, and the
third is scored, in windows of the training length and with the state carried on. Only answers count
whose episode the model has read from its beginning; the tables have their number.

    python -m experiments.skills --preset=minutes
    python -m experiments.skills --preset=full --jobs=2
    python -m experiments.skills --preset=full --only=lstm --only=attention

A run that is on record (folder `records`) is not trained again, so the same command resumes an
interrupted study. `--from_records` trains nothing. The tables name models that are not on record,
and means that leave out a seed, such as one whose run diverged.

The command writes results.json, tables.md and skills.png into runs/skills-PRESET.

Cost: `minutes` trains 12 runs, and `full` 468: six of each of 13 models for each of 6 skills.
"""

import sys
from collections.abc import Mapping, Sequence

from charlm_jax.cli.exit_status import run_program
from charlm_jax.core.errors import CharlmError
from experiments.recorded_training import RecordedTraining
from experiments.skills.arms import PRESETS, Preset
from experiments.skills.measures import measure_run
from experiments.skills.results import FIGURE, TITLE, build_results, write_results
from experiments.study_command import (
    StudyFiles,
    add_only,
    check_only,
    open_study,
    study_parser,
)
from experiments.tuned_arms import ArmRuns, train_arms

STUDY = StudyFiles("skills", TITLE, (FIGURE,))


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is not on record, and write the results."""
    parser = study_parser(STUDY, "Measure which layers learn which skill.", PRESETS)
    add_only(parser)
    options = parser.parse_args(arguments)

    def work() -> None:
        preset = PRESETS[options.preset]
        check_only(options.only, preset.layers)
        found = open_study(STUDY, options)
        runs = run_study(found.training, preset, options.only, train=found.train)
        write_results(build_results(preset, runs), found.folder, found.command)

    return run_program(parser.prog, work, goes_on=True)


def run_study(
    training: RecordedTraining, preset: Preset, only: Sequence[str], *, train: bool
) -> Mapping[str, ArmRuns]:
    """Train the named models, and return all arms of which a run is on record.

    Args:
      training: folders and number of runs at once.
      preset: size of the study.
      only: names of the models to train; all if empty.
      train: whether to train what is not on record.

    Raises:
      CharlmError: no arm has all of its search on record, or a run failed.
    """
    if train:
        train_arms(training, preset.arms(only), preset.effort, measure_run)
    runs = train_arms(training, preset.arms(), preset.effort, measure_run, train=False)
    if not runs:
        raise CharlmError(f"{training.records.folder} has no records: run the study first")
    return runs


if __name__ == "__main__":
    sys.exit(main())
