"""Atlas of layers, and card of optimizers.

Models with about as many parameters learn The Mysterious Island with equal effort: the learning
rate of each is searched in the same number of runs. The text is split 80/10/10; the second part is
used to choose learning rates, checkpoints and the best model, and the third is scored.

    python -m experiments.atlas --preset=minutes
    python -m experiments.atlas --preset=small --jobs=2
    python -m experiments.atlas --preset=large --jobs=2
    python -m experiments.atlas --preset=optimizers --jobs=2
    python -m experiments.atlas --preset=small --only=lstm

`small` compares all layers at 0.3M parameters, and `large` eight of them at 1M; `optimizers`
compares update rules for three models of `small`, one model at a time. A run that is on record
(folder `records`) is not trained again, so the same command resumes an interrupted study.
`--from_records` trains nothing. The tables name models that are not on record, and means that leave
out a seed, such as one whose run diverged. Speeds are measured at the beginning, when no other
process should run; models that have none on record take turns.

The command writes results.json, tables.md and atlas.png into runs/atlas-PRESET.

Cost: `minutes` trains 9 runs, `small` 96, `large` 40 and `optimizers` 72. The 18 of adam are runs
of `small` too: with one folder as `--records` of both, the two train 150.
"""

import functools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from charlm_jax.cli.exit_status import run_program
from charlm_jax.config.loading import load_config
from charlm_jax.core.errors import CharlmError
from charlm_jax.evaluation.protocol import Stream
from charlm_jax.inference.run import Run
from experiments.atlas.arms import PRESETS, Preset
from experiments.atlas.measures import measure_context, measure_models, measure_run
from experiments.atlas.results import FIGURE, TITLE, Results, build_results, write_results
from experiments.recorded_training import RecordedTraining, RecordFolder
from experiments.study_command import (
    StudyFiles,
    add_only,
    check_only,
    open_study,
    study_parser,
)
from experiments.tuned_arms import TunedArm, train_arms

STUDY = StudyFiles("atlas", TITLE, (FIGURE,))
_SPEEDS = "speeds"


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
      CharlmError: nothing is on record, or a run failed.
    """
    if train:
        speeds = measure_speeds_once(training.records, preset.arms(only))
        more = functools.partial(measure_context, preset=preset)
        train_arms(
            training, preset.arms(only), preset.effort, measure_second, measure_run, more=more
        )
    else:
        speeds = training.records.read(_SPEEDS) or {}
    runs = train_arms(
        training, preset.arms(), preset.effort, measure_second, measure_run, train=False
    )
    if not runs:
        raise CharlmError(f"{training.records.folder} has no records: run the study first")
    if unknown := [name for name in runs if name not in speeds]:
        raise CharlmError(
            f"{training.records.file(_SPEEDS)} has no speeds of {', '.join(unknown)}: the command "
            f"without --from_records and --only measures them"
        )
    return build_results(preset, runs, speeds)


def measure_second(run: Run) -> dict[str, Any]:
    """Return the record of a run of the search, which tells its loss on the second part alone."""
    return {"second": round(run.evaluate(Stream(), split="valid")[0].loss_nats, 6)}


def measure_speeds_once(
    records: RecordFolder, arms: Sequence[TunedArm]
) -> Mapping[str, Mapping[str, int]]:
    """Measure speeds and sizes of the arms' models, unless they are on record."""
    speeds = records.read(_SPEEDS) or {}
    missing = {
        arm.name: load_config(arm.config, arm.fields) for arm in arms if arm.name not in speeds
    }
    if missing:
        speeds |= measure_models(missing)
        records.write(_SPEEDS, speeds)
    return speeds


if __name__ == "__main__":
    sys.exit(main())
