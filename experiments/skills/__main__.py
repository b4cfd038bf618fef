"""Which layers learn which skill.

Models of two equal blocks, which differ in their layers alone and have about as many parameters,
learn synthetic texts that need one skill each (`charlm_jax.data.skills`). The best loss of every
character is known. The measure is the loss above it on the answers, the characters whose
distribution only the skill tells, as a share of that of a predictor which knows the last character
alone: 0 for a model that has the skill, 1 for one that has learnt nothing of it. Texts are split
80/10/10; the second part is used to choose learning rates, with equal effort for every arm, and the
third is scored, in windows of the training length and with the state carried on. Only answers count
for which the model has read the end before their episode; the tables have their number. Of parity,
those after 15 bits or more count: most shorter strings are in the training text too. Counting shows
lengths as trained, since all of its episodes are in the training text.

    python -m experiments.skills --preset=minutes
    python -m experiments.skills --preset=full --jobs=2
    python -m experiments.skills --preset=full --only=lstm --only=attention

A run that is on record (folder `records`) is not trained again, so the same command resumes an
interrupted study. `--from_records` trains nothing. The tables name models that are not on record,
and means that leave out a seed, such as one whose run diverged.

The command writes results.json, tables.md and skills.png into runs/skills-PRESET.

Cost: `minutes` trains 12 runs, which read 307,200 characters each, and `full` 468, which read
1,024,000: six of each of 13 models for each of 6 skills.
"""

import sys
from collections.abc import Mapping, Sequence

from charlm_jax.cli.exit_status import run_program
from charlm_jax.config.loading import load_config
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.json_files import to_jsonable
from charlm_jax.data.dataset import load_dataset
from experiments.recorded_training import RecordedTraining
from experiments.skills.arms import PRESETS, Preset
from experiments.skills.measures import measure_run, measure_search, measure_text
from experiments.skills.results import FIGURE, TITLE, build_results, write_results
from experiments.study_command import (
    StudyFiles,
    add_only,
    check_only,
    open_study,
    study_parser,
)
from experiments.tuned_arms import ArmRuns, Effort, TunedArm, first_point, train_arms

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
      CharlmError: no arm has all of its search on record, a run failed, or records are of a text
        or of answers that are no longer those of the skill.
    """
    arms, effort = preset.arms(), preset.effort
    if train:
        check_texts(training, arms, effort)
        train_arms(training, preset.arms(only), effort, measure_search, measure_run)
    runs = train_arms(training, arms, effort, measure_search, measure_run, train=False)
    if not runs:
        raise CharlmError(f"{training.records.folder} has no records: run the study first")
    return runs


def check_texts(training: RecordedTraining, arms: Sequence[TunedArm], effort: Effort) -> None:
    """Compare the first record of each skill with its text and the answers that count.

    Args:
      training: folders.
      arms: arms of the study.
      effort: effort of each.

    Raises:
      CharlmError: a field that the text determines differs.
    """
    checked = set()
    for arm in arms:
        corpus, point = arm.fields["data.corpus"], first_point(arm, effort)
        record = None if corpus in checked else training.recorded(point)
        if record is None:
            continue
        checked.add(corpus)
        now = measure_text(load_dataset(load_config(arm.config, arm.fields)))
        for field, value in now.items():
            if record[field] != to_jsonable(value):
                raise CharlmError(
                    f"{training.file(point)} is of another text than {corpus} is now, or of other "
                    f"answers ({field} differs): remove the records of this skill, or name another "
                    "folder with --records"
                )


if __name__ == "__main__":
    sys.exit(main())
