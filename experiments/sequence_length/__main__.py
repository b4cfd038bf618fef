"""How long should training sequences be?

Models learn The Mysterious Island at lengths T from 5 to 640 characters, with the state reset
before every sequence or carried from batch to batch. A batch has 2,560 characters at every length,
so that all make equally many updates over equally many characters; a second budget gives all
equally many seconds. Text is cut 80/10/10: on the second part learning rates are chosen among
three, for each model, length and way with the state, in one seed, and then the best lengths; every
figure is of the third. Losses of unlike lengths are compared on the same characters, by the same
rules.

    python -m experiments.sequence_length --preset=minutes --jobs=2
    python -m experiments.sequence_length --preset=book --jobs=2
    python -m experiments.sequence_length --preset=full --jobs=2

Cost: `minutes` 9 min 37 s alone on a 2-core AMD EPYC with AVX2; `book` 242 minutes of CPU time on
the same, which other work shared.

Expected: `minutes` chooses T = 10, with 1.841 nats per character where the state is reset and 1.782
where it is carried, and shows none of 40, 160 and 640 to be worse; `book` as in
docs/sequence_length/README.md: for an LSTM whose state is reset T = 320 is chosen, with 1.587 nats
per character; 80 and more are not shown to be worse, 40 pays 0.011 more and 5 pays 0.090 more.

It writes README.md, results.json and figures into runs/sequence_length-PRESET. What is finished
there is not done again: the same command goes on where it was stopped. Speeds are measured once, at
the beginning, when nothing else should run.
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
from charlm_jax.core.json_files import to_jsonable, write_json
from charlm_jax.storage.workdir import Workdir
from experiments.markdown import refuse_other_page
from experiments.sequence_length.figures import save_effective_context, save_figures
from experiments.sequence_length.measures import (
    carried_less_reset,
    group_arms,
    measure_arm,
)
from experiments.sequence_length.page import TITLE, Results, page
from experiments.sequence_length.runs import WINDOW, Preset, Study

RATE_FACTORS = (0.5, 1.0, 2.0)
LENGTHS = (5, 10, 20, 40, 80, 160, 320, 640)
# About 300,000 parameters: the most that learns enough from what the book preset can read.
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
    """Train what is missing, score, and write the results."""
    parser = argparse.ArgumentParser(
        description="How long should training sequences be?",
        usage=argparse.SUPPRESS,  # so that a mistake is told in one line
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--preset", choices=tuple(PRESETS), default="minutes", help="default: %(default)s")
    add("--workdir", help="default: runs/sequence_length-PRESET")
    add("--corpus", default="mysterious-island", help="default: %(default)s")
    add("--jobs", type=int, default=1, help="runs at a time (default: %(default)s)")
    options = parser.parse_args(arguments)
    command = f"python -m experiments.sequence_length --preset={options.preset}"
    command += f" --corpus={options.corpus}"

    def work() -> None:
        folder = Workdir(options.workdir or f"runs/sequence_length-{options.preset}").path
        refuse_other_page(folder, TITLE, command, beside=["results.json"])
        keep_programs(folder / "compiled")
        study = Study(PRESETS[options.preset], options.corpus, folder, options.jobs)
        report(study, run_study(study), command)

    return run_program(parser.prog, work, goes_on=True)


def keep_programs(folder: Path) -> None:
    """Compile what differs in its seed alone once, in this process and in those that train."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder.resolve())
        jax.config.update("jax_compilation_cache_dir", str(folder.resolve()))


def run_study(study: Study) -> Results:
    """All stages, one after the other."""
    speeds = study.speeds()  # first of all, before anything else runs
    dataset = study.dataset
    text, part = dataset.corpus.text, dataset.part("test")
    tried = study.tune()
    rates = {key: min(losses, key=losses.__getitem__) for key, losses in tried.items()}
    plan = study.plan(rates, speeds)
    study.train([point for points in plan.values() for point in points])
    losses = {arm: study.score(arm, points) for arm, points in plan.items()}
    groups = group_arms(losses, text=text, part=part)
    bests = {
        group.model: next(points[0] for arm, points in plan.items() if group.is_best(arm))
        for group in groups
        if (group.state, group.budget) == ("reset", "characters")
    }
    looks = {model: study.look_back(point) for model, point in bests.items()}
    first, (point, *_) = next(iter(plan.items()))
    stream, _ = study.read_on(first, study.run(point), split="test")
    return Results(
        tried=tried,
        figures={
            arm: measure_arm(found, text=text, part=part, window=WINDOW, reach=study.preset.reach)
            for arm, found in losses.items()
        },
        groups=groups,
        carried=carried_less_reset(losses),
        looks=looks,
        effective={
            model: {
                change: effective_context({n: found.mean for n, found in by_n.items()})
                for change, by_n in by_change.items()
            }
            for model, by_change in looks.items()
        },
        baselines=find_baselines(dataset, stream),
        characters=stream.characters,
    )


def report(study: Study, results: Results, command: str) -> None:
    """Write the numbers, the figures and the page, and print the latter."""
    about = (
        f"{study.corpus}, {study.preset.characters:,} characters read in training, "
        f"{len(study.preset.seeds)} seeds; 95 % intervals over {results.characters:,} held-out "
        f"characters and seeds"
    )
    name, loss = results.counted
    pictures = save_figures(
        results.figures,
        study.folder,
        reach=study.preset.reach,
        window=WINDOW,
        about=about,
        baseline=(name, loss.mean),
    )
    last = study.folder / "effective_context.png"
    looked = (
        f"{study.corpus}, one run of each; 95 % intervals over {study.preset.context_targets:,} "
        f"targets, evenly spread over {results.characters:,} held-out characters"
    )
    save_effective_context(results.looks, results.effective, last, about=looked)
    words = page(results, [*pictures, last], about=about, command=command)
    file = study.folder / "README.md"
    file.write_text(words, encoding="utf-8")
    write_json(study.folder / "results.json", as_json(results, command))
    print(f"\n{words}\n{file}")


def as_json(results: Results, command: str) -> dict[str, Any]:
    """The results, whose keys are named tuples, in JSON's terms."""
    found: dict[str, Any] = {"command": command, **to_jsonable(results)}
    found["tried"] = [
        {"model": model, "length": length, "state": state, "loss_by_rate": to_jsonable(losses)}
        for (model, length, state), losses in results.tried.items()
    ]
    found["figures"] = [{**arm._asdict(), **to_jsonable(x)} for arm, x in results.figures.items()]
    found["carried"] = [
        {"model": model, "length": length, **to_jsonable(x)}
        for (model, length), x in results.carried.items()
    ]
    return found


if __name__ == "__main__":
    sys.exit(main())
