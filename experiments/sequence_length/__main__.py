"""Best length of training sequences.

Models learn The Mysterious Island at sequence lengths T from 5 to 640 characters, with the state
reset before every sequence or carried from batch to batch. A batch has 2,560 characters at every
length, so all runs make the same number of updates on the same number of characters; a second
budget gives all lengths the same training time. The text is split 80/10/10. The second part is used
to choose the learning rate, among three and with one seed, for each model, length and state, and
then the best lengths. All reported losses are on the third part. Losses at different lengths are
compared on the same characters under the same evaluation protocols.

    python -m experiments.sequence_length --preset=minutes --jobs=2
    python -m experiments.sequence_length --preset=book --jobs=2
    python -m experiments.sequence_length --preset=full --jobs=2

Cost: `minutes` 9 min 37 s alone on a 2-core AMD EPYC with AVX2; `book` 242 minutes of CPU time on
the same machine, shared with other work.

Expected: `minutes` chooses T = 10, with 1.841 nats per character with reset state and 1.782 with
carried state, and none of 40, 160 and 640 is significantly worse. `book` is published in
docs/studies/sequence_length/index.md: for an LSTM with reset state T = 320 is chosen, with 1.587
nats per character; 80 and more are not significantly worse, 40 is worse by 0.011 and 5 by 0.090.

The command writes results.json, tables.md and figures into runs/sequence_length-PRESET;
`--tables_only` rewrites tables.md from results.json. Finished runs are reused, so the same command
resumes an interrupted study. Speeds are measured once, at the beginning, when no other process
should run.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from charlm_jax.analysis.effective_context import effective_context
from charlm_jax.cli.exit_status import run_program
from charlm_jax.comparison.compare import find_baselines
from charlm_jax.core.files import atomic_write
from charlm_jax.core.json_files import write_json
from charlm_jax.storage.workdir import Workdir
from experiments.results_folder import RESULTS, TABLES, refuse_other_results
from experiments.sequence_length.figures import (
    EFFECTIVE_CONTEXT,
    figure_names,
    save_effective_context,
    save_figures,
)
from experiments.sequence_length.measures import (
    carried_less_reset,
    compare_lengths,
    measure_condition,
)
from experiments.sequence_length.results import Results, read_results, to_json
from experiments.sequence_length.runs import WINDOW, Preset, Study
from experiments.sequence_length.tables import TITLE, tables

STUDY = "sequence_length"
RATE_FACTORS = (0.5, 1.0, 2.0)
LENGTHS = (5, 10, 20, 40, 80, 160, 320, 640)
# About 300,000 parameters: larger models would not learn enough from the book preset's budget.
SMALL: Mapping[str, Mapping[str, Any]] = {
    "lstm": {
        "model.embedding_size": 64,
        "model.hidden_size": 224,
        "optimizer.learning_rate": 0.08,
    },
    "transformer": {"model.embedding_size": 80, "model.hidden_size": 80, "model.heads": 2},
    "mingru": {"model.embedding_size": 96, "model.hidden_size": 96},
}
PRESETS = {
    "minutes": Preset(
        models={"lstm": {"model.embedding_size": 64, "model.hidden_size": 160}},
        timed=("lstm",),
        lengths=(10, 40, 160, 640),
        seeds=(1, 2),
        characters=360_000,
        rate_factors=RATE_FACTORS,
        reach=1_280,
        context_reach=160,
        context_targets=400,
    ),
    "book": Preset(
        models=SMALL,
        timed=("lstm",),
        lengths=LENGTHS,
        seeds=(1, 2, 3),
        characters=640_000,
        rate_factors=RATE_FACTORS,
        reach=1_280,
        context_reach=320,
        context_targets=1_000,
    ),
    "full": Preset(
        models={"lstm": {}, "transformer": {}, "mingru": {}},
        timed=("lstm", "transformer", "mingru"),
        lengths=LENGTHS,
        seeds=(1, 2, 3, 4, 5),
        characters=5_000_000,
        rate_factors=RATE_FACTORS,
        reach=2_560,
        context_reach=640,
        context_targets=4_000,
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Train missing runs, score them and write the results."""
    parser = argparse.ArgumentParser(
        prog=f"experiments.{STUDY}",
        description="Measure how the length of training sequences affects the loss.",
        usage=argparse.SUPPRESS,  # one-line errors
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--preset", choices=tuple(PRESETS), default="minutes", help="default: %(default)s")
    add("--workdir", help="default: runs/sequence_length-PRESET")
    add("--corpus", default="mysterious-island", help="default: %(default)s")
    add("--jobs", type=int, default=1, help="number of runs trained at once (default: %(default)s)")
    add("--tables_only", action="store_true", help="rewrite tables.md from results.json")
    options = parser.parse_args(arguments)
    command = f"python -m experiments.{STUDY} --preset={options.preset} --corpus={options.corpus}"

    def work() -> None:
        preset = PRESETS[options.preset]
        folder = Workdir(options.workdir or f"runs/sequence_length-{options.preset}").path
        files = [RESULTS, TABLES, *figure_names(preset.models)]
        refuse_other_results(folder, study=STUDY, title=TITLE, command=command, files=files)
        if options.tables_only:
            write_tables(folder, read_results(folder / RESULTS), command)
            return
        keep_programs(folder / "compiled")
        study = Study(preset, options.corpus, folder, options.jobs)
        write_results(study, run_study(study), command)

    return run_program(parser.prog, work, goes_on=True)


def keep_programs(folder: Path) -> None:
    """Share compiled programs between this process and the training processes."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder.resolve())
        jax.config.update("jax_compilation_cache_dir", str(folder.resolve()))


def run_study(study: Study) -> Results:
    """Run all stages: speeds, learning rates, training, scores, effective contexts."""
    speeds = study.speeds()  # before anything else runs
    dataset = study.dataset
    text, part = dataset.corpus.text, dataset.part("test")
    tried = study.tune()
    rates = {key: min(losses, key=losses.__getitem__) for key, losses in tried.items()}
    plan = study.plan(rates, speeds)
    study.train([point for points in plan.values() for point in points])
    losses = {condition: study.score(condition, points) for condition, points in plan.items()}
    comparisons = compare_lengths(losses, text=text, part=part)
    best_points = {
        comparison.model: next(points[0] for x, points in plan.items() if comparison.is_best(x))
        for comparison in comparisons
        if (comparison.state, comparison.budget) == ("reset", "characters")
    }
    by_context = {model: study.losses_by_context(point) for model, point in best_points.items()}
    first, (point, *_) = next(iter(plan.items()))
    stream, _ = study.read_on(first, study.run(point), split="test")
    reach = study.preset.reach
    return Results(
        tried=tried,
        measurements={
            condition: measure_condition(x, text=text, part=part, window=WINDOW, reach=reach)
            for condition, x in losses.items()
        },
        comparisons=comparisons,
        carried=carried_less_reset(losses),
        by_context=by_context,
        effective={
            model: {
                change: effective_context({n: loss.mean for n, loss in by_n.items()})
                for change, by_n in by_change.items()
            }
            for model, by_change in by_context.items()
        },
        baselines=find_baselines(dataset, stream),
        characters=stream.characters,
    )


def write_results(study: Study, results: Results, command: str) -> None:
    """Write results.json, the figures and tables.md, and print the tables."""
    write_json(study.folder / RESULTS, to_json(results, command))  # first: it marks the folder
    about = (
        f"{study.corpus}, {study.preset.characters:,} characters read in training, "
        f"{len(study.preset.seeds)} seeds; 95 % intervals over {results.characters:,} held-out "
        f"characters and seeds"
    )
    name, loss = results.best_baseline
    save_figures(
        results.measurements,
        study.folder,
        reach=study.preset.reach,
        window=WINDOW,
        about=about,
        baseline=(name, loss.mean),
    )
    targets = (
        f"{study.corpus}, one run of each; 95 % intervals over {study.preset.context_targets:,} "
        f"targets, evenly spread over {results.characters:,} held-out characters"
    )
    file = study.folder / EFFECTIVE_CONTEXT
    save_effective_context(results.by_context, results.effective, file, about=targets)
    write_tables(study.folder, results, command)


def write_tables(folder: Path, results: Results, command: str) -> None:
    """Write tables.md and print it."""
    text = tables(results, command=command)
    atomic_write(folder / TABLES, text.encode())
    print(f"\n{text}\n{folder / TABLES}")


if __name__ == "__main__":
    sys.exit(main())
