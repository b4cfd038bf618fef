"""Atlas of layers, and card of optimizers.

Models with about as many parameters learn The Mysterious Island with equal effort: the learning
rate of each is searched in the same number of runs. The text is split 80/10/10; the second part is
used to choose learning rates, checkpoints and the best model, and the third is scored.

    python -m experiments.atlas --preset=minutes
    python -m experiments.atlas --preset=small --jobs=2
    python -m experiments.atlas --preset=large --jobs=2
    python -m experiments.atlas --preset=optimizers --jobs=2
    python -m experiments.atlas --preset=small --only=lstm

`small` and `large` compare all layers at 0.3M and 1M parameters; `optimizers` compares update rules
for three of them. A run that is on record (folder `records`) is not trained again, so the same
command resumes an interrupted study. `--from_records` trains nothing. Speeds are measured once, at
the beginning, when no other process should run.

The command writes results.json, tables.md and atlas.png into runs/atlas-PRESET.
"""

import argparse
import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from charlm_jax.cli.exit_status import run_program
from charlm_jax.config.loading import load_config
from charlm_jax.core.errors import CharlmError
from charlm_jax.storage.workdir import Workdir
from experiments.atlas.arms import PRESETS, Preset
from experiments.atlas.measures import measure_models, measure_run
from experiments.atlas.results import FIGURE, TITLE, Results, build_results, write_results
from experiments.recorded_training import RecordedTraining, RecordFolder
from experiments.results_folder import RESULTS, TABLES, refuse_other_results
from experiments.tuned_arms import TunedArm, train_arms

STUDY = "atlas"
_SPEEDS = "speeds"


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is not on record, and write the results."""
    parser = argparse.ArgumentParser(
        prog=f"experiments.{STUDY}",
        description="Compare layers, or update rules, with equal effort.",
        usage=argparse.SUPPRESS,  # one-line errors
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--preset", choices=tuple(PRESETS), default="minutes", help="default: %(default)s")
    add("--only", action="append", default=[], help="name of a model to train; may be repeated")
    add("--workdir", help="folder of the results (default: runs/atlas-PRESET)")
    add("--records", help="folder of the records (default: records, in the folder of the results)")
    add("--jobs", type=int, default=1, help="number of runs trained at once (default: %(default)s)")
    add("--from_records", action="store_true", help="train nothing")
    options = parser.parse_args(arguments)

    def work() -> None:
        preset = PRESETS[options.preset]
        for name in options.only:
            if name not in preset.models:
                known = ", ".join(map(repr, preset.models))
                raise CharlmError(f"--only={name} is not one of {known}")
        folder = Workdir(options.workdir or f"runs/{STUDY}-{options.preset}").path
        command = f"python -m experiments.{STUDY} --preset={options.preset}"
        files = [RESULTS, TABLES, FIGURE]
        refuse_other_results(folder, study=STUDY, title=TITLE, command=command, files=files)
        training = RecordedTraining(
            RecordFolder(Path(options.records or folder / "records")),
            folder / "runs",
            jobs=options.jobs,
        )
        results = run_study(training, preset, options.only, train=not options.from_records)
        write_results(results, folder, command)

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
        measure = functools.partial(measure_run, preset=preset)
        train_arms(training, preset.arms(only), preset.effort, measure)
    else:
        speeds = training.records.read(_SPEEDS) or {}
    measure = functools.partial(measure_run, preset=preset)
    runs = train_arms(training, preset.arms(), preset.effort, measure, train=False)
    found = {name: each for name, each in runs.items() if name in speeds}
    if not found:
        raise CharlmError(f"{training.records.folder} has no records: run the study first")
    return build_results(preset, found, speeds)


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
