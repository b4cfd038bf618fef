"""Atlas of layers, and card of optimizers.

Models with about as many parameters learn The Mysterious Island with equal effort: the learning
rate of each is searched in the same number of runs. The text is split 80/10/10; the second part is
used to choose learning rates, checkpoints and the best model, and the third is scored.

    python -m experiments.atlas --preset=minutes
    python -m experiments.atlas --preset=small --jobs=2
    python -m experiments.atlas --preset=large --jobs=2
    python -m experiments.atlas --preset=optimizers --jobs=2 --records=runs/atlas-small/records
    python -m experiments.atlas --preset=small --only=lstm

`small` compares 16 models at 0.3M parameters: stacks of blocks, of every layer that has parameters
and of an LSTM and attention, and four bare recurrent layers. It leaves out layer-normalized cells,
windows and other position encodings of attention, other blocks and MLPs, and other stacks of
different layers. `large` compares nine of the stacks at 1M. Bare layers and stacks are each
compared with their own best. `optimizers` compares update rules for three models of `small`, one
model at a time.

A run that is on record (folder `records`) is not trained again, so the same command resumes an
interrupted study. `--from_records` trains nothing. The tables name models that are not on record,
and means that leave out a seed, such as one whose run diverged. Speeds are measured at the
beginning, when no other process should run. Models take turns: if one has no speed on record, all
are measured anew.

The command writes results.json, tables.md and atlas.png into runs/atlas-PRESET.

Cost: `minutes` trains 9 runs, `small` 96, `large` 45 and `optimizers` 72. The 18 of adam are runs
of `small` too: with one folder as `--records` of both, the two train 150.
"""

import functools
import sys
from collections.abc import Sequence

from charlm_jax.cli.exit_status import run_program
from charlm_jax.config.loading import load_config
from charlm_jax.core.errors import CharlmError
from charlm_jax.data.dataset import load_dataset
from charlm_jax.data.download import DownloadProgress
from experiments.atlas.arms import PRESETS, Preset
from experiments.atlas.measures import check_runs, measure_context, measure_run, measure_second
from experiments.atlas.results import FIGURE, TITLE, Results, build_results, write_results
from experiments.atlas.speeds import measure_speeds_once, read_speeds, speeds_name
from experiments.recorded_training import RecordedTraining
from experiments.study_command import (
    StudyFiles,
    add_only,
    check_only,
    open_study,
    study_parser,
)
from experiments.tuned_arms import ArmRuns, train_arms

STUDY = StudyFiles("atlas", TITLE, (FIGURE,))


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is not on record, and write the results."""
    parser = study_parser(STUDY, "Compare layers, or update rules, with equal effort.", PRESETS)
    add_only(parser)
    options = parser.parse_args(arguments)

    def work() -> None:
        preset = PRESETS[options.preset]
        check_only(options.only, preset.models)
        found = open_study(STUDY, options)
        results = run_study(found.training, preset, options.only, train=found.train)
        write_results(results, found.folder, found.command)

    return run_program(parser.prog, work, goes_on=True)


def run_study(
    training: RecordedTraining, preset: Preset, only: Sequence[str], *, train: bool
) -> Results:
    """Measure and train the named models, and return the results of all that are on record.

    Args:
      training: folders and number of runs at once.
      preset: size of the study.
      only: names of the models to train; all if empty.
      train: whether to train what is not on record.

    Raises:
      CharlmError: nothing is on record, a record cannot be used, or a run failed.
    """
    records = training.records

    def recorded() -> dict[str, ArmRuns]:
        arms, effort = preset.arms(), preset.effort
        return train_arms(training, arms, effort, measure_second, measure_run, train=False)

    if train:
        asked, runs = preset.arms(only), recorded()
        config = load_config(asked[0].config, asked[0].fields)
        text = load_dataset(config, progress=DownloadProgress())
        check_runs(records, preset, runs, fingerprint=text.fingerprint)
        measure_speeds_once(records, preset, {*runs, *(arm.name for arm in asked)})
        more = functools.partial(measure_context, preset=preset)
        train_arms(training, asked, preset.effort, measure_second, measure_run, more=more)
    runs, speeds = recorded(), read_speeds(records, preset)
    if not runs:
        raise CharlmError(f"{records.folder} has no records: run the study first")
    check_runs(records, preset, runs)
    if unknown := [name for name in runs if name not in speeds]:
        raise CharlmError(
            f"{records.file(speeds_name(preset))} has no speeds of {', '.join(unknown)} with "
            f"today's settings: the command without --from_records measures them"
        )
    return build_results(preset, runs, speeds)


if __name__ == "__main__":
    sys.exit(main())
