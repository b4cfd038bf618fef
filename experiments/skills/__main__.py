"""Which layers learn which skill.

Models of two equal blocks, which differ in their layers alone and have about as many parameters,
learn synthetic texts that need one skill each (`charlm_jax.data.skills`). The best loss of every
character is known. The measure is the loss above it, in nats per character that the skill
determines: 0 for a model that has the skill. Texts are split 80/10/10; the second part is used to
choose learning rates, with equal effort for every arm, and the third is scored, with the state
carried through it. Its first episode may be cut, so that no model could answer: its answers do not
count. Attention keeps the last 128 characters, as in training.

    python -m experiments.skills --preset=minutes
    python -m experiments.skills --preset=full --jobs=2
    python -m experiments.skills --preset=full --only=lstm --only=attention

A run that is on record (folder `records`) is not trained again, so the same command resumes an
interrupted study. `--from_records` trains nothing. The tables name models that are not on record,
and means that leave out a seed, such as one whose run diverged.

The command writes results.json, tables.md and skills.png into runs/skills-PRESET.
"""

import functools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from charlm_jax.cli.exit_status import run_program
from charlm_jax.core.trees import count_parameters
from charlm_jax.data.skills import END, SkillSource
from charlm_jax.data.synthetic import parse_source
from charlm_jax.evaluation.block_sums import block_sums
from charlm_jax.evaluation.protocol import Stream, all_positions
from charlm_jax.inference.run import Run
from experiments.block_records import to_sums
from experiments.recorded_training import RecordedTraining
from experiments.skills.arms import PRESETS, SEQUENCE_LENGTH, Preset
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
    """
    measure = functools.partial(measure_run, length=SEQUENCE_LENGTH)
    if train:
        train_arms(training, preset.arms(only), preset.effort, measure)
    return train_arms(training, preset.arms(), preset.effort, measure, train=False)


def measure_run(run: Run, *, length: int) -> dict[str, Any]:
    """Return the record of a run: its losses above the best, summed over blocks of text.

    Args:
      run: the run, on a text of one skill.
      length: past positions that attention keeps.
    """
    source = parse_source(run.config.data.corpus)
    assert isinstance(source, SkillSource)
    dataset = run.dataset()
    context = length if run.model.keeps_positions else None
    second = run.evaluate(Stream(context), split="valid")[0].loss_nats
    evaluation, nll_N = run.evaluate(Stream(context), split="test")
    places_N, text = all_positions(dataset.part("test")), dataset.corpus.text[:]
    excess_N = nll_N - source.nll_nats(text)[places_N]
    is_whole_N = places_N > text.index(END, places_N[0] - 1)  # the first episode may be cut
    answers = block_sums([excess_N], mask_N=source.is_answer(text)[places_N] & is_whole_N)
    return {
        "seed": run.config.seed,
        "parameters": count_parameters(run.params),
        "second": round(second, 6),
        "excess": to_sums(answers)[0],
        "answers": answers.counts_K.tolist(),
        "loss": round(evaluation.loss_nats, 6),
        "best_loss": round(float(evaluation.loss_nats - excess_N.mean()), 6),
    }


if __name__ == "__main__":
    sys.exit(main())
