"""What the commands do between their flags and the library: call it, and print.

Each imports what it needs when it runs, so that a quick one does not wait for jax.
"""

import argparse
import dataclasses
import hashlib
import json
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlm_jax.types import CharlmError, visible

if TYPE_CHECKING:
    from charlm_jax.comparison import Comparison
    from charlm_jax.inside import Inside
    from charlm_jax.run import Run
    from charlm_jax.statistics import Interval
    from charlm_jax.sweeps import Sweep


def train(options: argparse.Namespace) -> None:
    """Train, or go on with a run, and say how it stands."""
    from charlm_jax.config_files import config_name, load_config

    overrides = options.overrides
    if options.init_from is not None:
        overrides = [*overrides, f"train.init_from={options.init_from}"]
    config = load_config(options.config, overrides)
    workdir = options.workdir or f"runs/{config_name(options.config)}"
    from charlm_jax.console import DownloadProgress, training_view
    from charlm_jax.loop import train_and_evaluate

    with training_view() as view:
        if options.tensorboard:
            from charlm_jax.event_files import EventFiles

            view = events = EventFiles(workdir, view)
        result = train_and_evaluate(
            config, workdir, fresh=options.fresh, view=view, progress=DownloadProgress()
        )
        if options.tensorboard and result.was_done:
            events.write_anew()
    early = ", stopped early: the held-out loss no longer fell" if result.stopped_early else ""
    if result.was_done:
        print(f"{workdir} is done: {result.step} steps{early}")
    else:
        print(f"{workdir}: trained {result.step} steps{early}")
    if result.best_loss_nats is not None:
        print(f"best held-out loss: {result.best_loss_nats:.4f} nats, at step {result.best_step}")


def sweep(options: argparse.Namespace) -> int:
    """Train the points of a sweep; the exit status is 1 where one is not done at the end."""
    from charlm_jax.config_files import config_name
    from charlm_jax.sweeps import load_sweep, refuse_other
    from charlm_jax.workdir import Workdir

    if options.jobs is not None and options.jobs < 1:
        raise CharlmError(f"jobs={options.jobs} is not allowed: it must be at least 1")
    if options.slurm and options.launcher != "slurm":
        raise CharlmError("--slurm means nothing without --launcher=slurm")
    plan = load_sweep(options.config, options.overrides)
    folder = Workdir(options.workdir or f"runs/{config_name(options.config)}").path
    if options.dry_run:
        for point in plan.points:
            print(point.command(folder))
        return 0
    refuse_other(plan, folder)
    import jax

    from charlm_jax.console import DownloadProgress
    from charlm_jax.runner import check_points

    # This process only looks at configs: an accelerator's memory is for the runs.
    jax.config.update("jax_platforms", "cpu")  # type: ignore[no-untyped-call]
    left = [point for point in plan.points if not point.is_finished(folder)]
    check_points(left, folder, progress=DownloadProgress())
    launch = {"local": _sweep_here, "slurm": _sweep_on_cluster}[options.launcher]
    return launch(plan, folder, options)


def _sweep_here(plan: "Sweep", folder: Path, options: argparse.Namespace) -> int:
    from charlm_jax.console import sweep_view
    from charlm_jax.runner import run_points
    from charlm_jax.sweeps import claim

    claim(plan, folder)
    with sweep_view() as view:
        jobs = 1 if options.jobs is None else options.jobs
        outcomes = run_points(plan.points, folder, jobs=jobs, view=view)
    done = sum(outcome.state == "done" for outcome in outcomes)
    print(f"{folder}: {done} of {len(outcomes)} points are done")
    for outcome in outcomes:
        if outcome.state == "failed":
            command = outcome.point.command(folder)
            print(f"{outcome.point.name} failed: {outcome.says}; {command}")
    return 0 if done == len(outcomes) else 1


def _sweep_on_cluster(plan: "Sweep", folder: Path, options: argparse.Namespace) -> int:
    from charlm_jax.slurm import slurm_executor, submit_points
    from charlm_jax.sweeps import claim

    limit = {} if options.jobs is None else {"array_parallelism": options.jobs}
    executor, is_active = slurm_executor(folder, {**limit, **options.slurm})
    claim(plan, folder)
    for point, state, job_id in submit_points(plan.points, folder, executor, is_active=is_active):
        print(f"{point.name}: {state}" + (f", job {job_id}" if job_id and state != "done" else ""))
    return 0


def _load(options: argparse.Namespace) -> "Run":
    from charlm_jax.run import load_run

    return load_run(options.workdir, checkpoint=options.checkpoint, weights=options.weights)


def sample(options: argparse.Namespace) -> None:
    """Draw text, and print it or write it as JSON."""
    from charlm_jax.sampling import temperature

    run = _load(options)
    truncations = {"top_k": options.top_k, "top_p": options.top_p, "min_p": options.min_p}
    pieces = run.draw(
        options.prompt,
        characters=options.chars,
        scales=options.scale,
        samples=options.num,
        seed=options.seed,
        mode=options.mode,
        context=options.context,
        unknown=options.unknown,
        replacement=options.replacement,
        **truncations,
    )
    rows = [
        {
            "scale": scale,
            "temperature": temperature(scale),
            **truncations,
            "seed": options.seed,
            "index": index,
            "prompt": options.prompt,
        }
        for scale in options.scale
        for index in range(options.num)
    ]
    if options.json:
        for row, text in zip(rows, _joined(pieces, len(rows)), strict=True):
            print(json.dumps({**_finite(row), "text": text}))
        return
    mode = options.mode or run.default_mode
    averaged = ", averaged weights" if run.weights == "average" else ""
    print(f"{run.workdir}, checkpoint {run.checkpoint}{averaged}, {mode}", file=sys.stderr)
    if len(rows) == 1:
        _print_heading(rows[0])
        print(options.prompt, end="", flush=True)
        for (text,) in pieces:
            print(text, end="", flush=True)
        print()
        return
    for row, text in zip(rows, _joined(pieces, len(rows)), strict=True):
        _print_heading(row)
        print(options.prompt + text + "\n")


def _joined(pieces: Iterable[list[str]], rows: int) -> list[str]:
    texts = [""] * rows
    for piece in pieces:
        texts = [text + more for text, more in zip(texts, piece, strict=True)]
    return texts


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: it is written as a word."""
    return {
        name: str(value) if isinstance(value, float) and value == float("inf") else value
        for name, value in row.items()
    }


def _print_heading(row: Mapping[str, Any]) -> None:
    unused = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
    used = "".join(f"{name} {row[name]}, " for name in unused if row[name] != unused[name])
    print(
        f"--- scale {row['scale']:g} (temperature {row['temperature']:g}), {used}"
        f"seed {row['seed']}, sample {row['index']}",
        flush=True,
    )


def evaluate(options: argparse.Namespace) -> None:
    """Score a part of the text, keep the losses, print the figure."""
    from charlm_jax.console import DownloadProgress

    run = _load(options)
    evaluation, nll_N = run.evaluate(
        split=options.split,
        mode=options.mode,
        context=options.context,
        targets=options.targets,
        progress=DownloadProgress(),
    )
    file = run.save_evaluation(evaluation, nll_N)
    if options.json:
        print(json.dumps(dataclasses.asdict(evaluation)))
        return
    averaged = ", averaged weights" if evaluation.weights == "average" else ""
    print(
        f"{evaluation.split}: {evaluation.loss_nats:.4f} nats, "
        f"{evaluation.bits_per_char:.4f} bits per character over {evaluation.characters:,} "
        f"characters ({evaluation.rule}{averaged}, checkpoint {evaluation.checkpoint})\n{file}"
    )


def compare(options: argparse.Namespace) -> None:
    """Set runs side by side on the same characters, and print the table."""
    from charlm_jax.comparison import as_json, compare
    from charlm_jax.console import DownloadProgress
    from charlm_jax.run import load_run
    from charlm_jax.shelf import run_folders

    paths = [path for folder in options.folders for path in run_folders(folder)]
    comparison = compare(
        [load_run(path, checkpoint=options.checkpoint) for path in paths],
        split=options.split,
        mode=options.mode,
        context=options.context,
        targets=options.targets,
        progress=DownloadProgress(),
    )
    if options.json:
        print(json.dumps(as_json(comparison)))
    elif options.csv:
        _print_csv(comparison)
    else:
        _print_comparison(comparison)


def _print_comparison(comparison: "Comparison") -> None:
    rows = comparison.rows()
    evaluation = comparison.arms[0].evaluations[0]
    names = [row.name for row in rows] + [baseline.name for baseline in comparison.baselines]
    width = max(map(len, names))
    print(
        f"{'arm':<{width}}  {'seeds':>5}  {'parameters':>10}  {'nats':>6}  {'95 % interval':<16}  "
        f"{'bits':>6}  {'spread':>6}  less {rows[0].name}"
    )
    for row in rows:
        spread = "" if row.spread is None else f"{row.spread:.4f}"
        less = "" if row.difference is None else row.difference.in_words()
        print(
            f"{row.name:<{width}}  {len(row.seeds):>5}  {row.parameters:>10,}  "
            f"{row.loss.mean:>6.4f}  {_ends(row.loss)}  {row.bits_per_char:>6.4f}  {spread:>6}  "
            f"{less}".rstrip()
        )
    for baseline in comparison.baselines:
        ends = " " * 16 if baseline.loss is None else _ends(baseline.loss)
        nats = baseline.bits_per_char * math.log(2)
        print(
            f"{baseline.name:<{width}}  {'':>5}  {'':>10}  {nats:>6.4f}  {ends}  "
            f"{baseline.bits_per_char:>6.4f}"
        )
    print(
        f"\n{evaluation.split}, {evaluation.characters:,} characters, {evaluation.rule}. "
        f"Intervals are over blocks of 1,000 characters and over seeds where there are several; "
        f"spread is the standard deviation over seeds."
    )


def _ends(interval: "Interval") -> str:
    return f"[{interval.low:.4f}, {interval.high:.4f}]"


def _print_csv(comparison: "Comparison") -> None:
    import csv

    names = "name seeds parameters loss_nats loss_low loss_high bits_per_char spread"
    names += " difference difference_low difference_high"
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names.split())
    for row in comparison.rows():
        less = ("", "", "") if row.difference is None else row.difference
        seeds = " ".join(map(str, row.seeds))
        spread = "" if row.spread is None else row.spread
        facts = (row.name, seeds, row.parameters, *row.loss, row.bits_per_char, spread)
        writer.writerow([*facts, *less])
    for baseline in comparison.baselines:
        loss = baseline.loss or (baseline.bits_per_char * math.log(2), "", "")
        writer.writerow([baseline.name, "", "", *loss, baseline.bits_per_char, "", "", "", ""])


def report(options: argparse.Namespace) -> None:
    """Write a page about runs."""
    from charlm_jax.console import DownloadProgress
    from charlm_jax.report.page import check_place
    from charlm_jax.report.runs_page import write_report
    from charlm_jax.run import load_run
    from charlm_jax.shelf import run_folders

    paths = [path for folder in options.folders for path in run_folders(folder)]
    folder = options.folders[0] if len(options.folders) == 1 else "."
    file = Path(os.path.expanduser(options.out or os.path.join(folder, "report.html")))
    check_place(file)
    rule = {name: getattr(options, name) for name in ("split", "mode", "context", "targets")}
    flags = {**rule, "checkpoint": options.checkpoint}
    changed = [
        f"--{name}={value}"
        for name, value in flags.items()
        if value != options.parser.get_default(name)
    ]
    write_report(
        [load_run(path, checkpoint=options.checkpoint) for path in paths],
        file,
        **rule,
        command=shlex.join(["charlm", "report", *options.folders, *changed]),
        progress=DownloadProgress(),
    )
    print(file)


def inspect(options: argparse.Namespace) -> None:
    """Have a model read a text, and draw what happens inside it."""
    run = _load(options)
    inside = run.inspect(options.text, unknown=options.unknown, replacement=options.replacement)
    from charlm_jax.report.inside import save_inside
    from charlm_jax.workdir import Workdir

    own = Workdir(run.workdir).inspect
    folder = own if options.out is None else Path(os.path.expanduser(options.out))
    averaged = ", averaged weights" if run.weights == "average" else ""
    source = f"{visible(run.workdir.resolve().name)[:30]}, checkpoint {run.checkpoint}{averaged}"
    files = save_inside(inside, folder, tag=_tag(run, inside), source=source)
    if options.json:
        print(json.dumps(_inside_as_json(run, inside, options.text, files)))
        return
    print(*files, sep="\n")
    distances = {layer.name: layer.distance_H for layer in inside.layers}
    rows = {name: d_H for name, d_H in distances.items() if d_H is not None}
    if rows:
        most, width = max(map(len, rows.values())), max(map(len, rows))
        print("\nmean attention distance in characters, by head")
        print(" " * width + "".join(f"{head:>7}" for head in range(most)))
    for name, distance_H in rows.items():
        print(f"{name:<{width}}" + "".join(f"{distance:>7.2f}" for distance in distance_H))


def _tag(run: "Run", inside: "Inside") -> str:
    """What the names of figures end in: no other run, checkpoint or text has the same."""
    read = f"{run.weights}\n{inside.symbols}".encode("utf-8", "surrogatepass")
    code = hashlib.sha256(os.fsencode(run.workdir.resolve()) + b"\n" + read).hexdigest()[:8]
    return f"step_{run.checkpoint}_{code}"


def _inside_as_json(
    run: "Run", inside: "Inside", text: str, files: Iterable[Path]
) -> dict[str, Any]:
    layers = []
    for layer in inside.layers:
        arrays = {**layer.gates, **layer.states}
        row: dict[str, Any] = {"name": layer.name, "kind": layer.kind}
        if layer.distance_H is not None:
            row["mean_attention_distance"] = layer.distance_H.tolist()
        if arrays:
            row["unit_means"] = {name: x.mean(axis=0).tolist() for name, x in arrays.items()}
        layers.append(row)
    return {
        "text": text,
        "workdir": str(run.workdir),
        "checkpoint": run.checkpoint,
        "weights": run.weights,
        "symbols": list(inside.symbols),
        "guesses": inside.guesses,
        "files": [str(file) for file in files],
        "layers": layers,
    }


def runs(options: argparse.Namespace) -> None:
    """List runs, the latest first."""
    from charlm_jax.shelf import age, list_runs

    rows = list_runs(options.folder)
    if options.json:
        for row in rows:
            print(json.dumps(row._asdict()))
        return
    if not rows:
        print(f"no run in {options.folder}")
        return
    width = max(len(row.path) for row in rows)
    print(
        f"{'run':<{width}}  {'state':<13}  {'parameters':>10}  {'steps':>15}  {'best nats':>9}  "
        f"{'written':<12}  corpus"
    )
    for row in rows:
        parameters = "?" if row.parameters is None else f"{row.parameters:,}"
        steps = f"{row.step}/{'?' if row.total_steps is None else row.total_steps}"
        best = "-" if row.best_loss_nats is None else f"{row.best_loss_nats:.4f}"
        print(
            f"{row.path:<{width}}  {row.state:<13}  {parameters:>10}  {steps:>15}  {best:>9}  "
            f"{age(row.seconds_ago):<12}  {row.corpus}"
        )


def verify(options: argparse.Namespace) -> int:
    """Repeat a run's first steps; the exit status is 1 where they differ."""
    from charlm_jax.console import DownloadProgress
    from charlm_jax.verify import verify_run

    result = verify_run(options.workdir, steps=options.steps, progress=DownloadProgress())
    for change in result.changes:
        print(change)
    if result.first_difference is None:
        print(
            f"{options.workdir}: {result.steps} steps repeated, {len(result.compared)} hashes "
            f"compared, all equal"
        )
        return 0
    print(
        f"{options.workdir}: differs at step {result.first_difference}: "
        f"{result.recorded} recorded, {result.found} now"
    )
    return 1


def replay(options: argparse.Namespace) -> None:
    """Repeat the step at which a run failed, and print what its arrays hold."""
    from charlm_jax.fault import replay_fault

    result = replay_fault(options.workdir)
    print(
        f"step {result.step}: loss {result.loss_nats:g}, gradient norm {result.gradient_norm:g}\n"
    )
    first = result.first_bad
    shown = result.arrays[: result.arrays.index(first) + 1] if first else result.arrays
    width = max(len(seen.name) for seen in shown)
    print(f"{'array, in the order of the step':<{width}}  {'largest':>9}  not finite")
    for seen in shown:
        bad = f"{seen.bad:,} of {seen.size:,}" if seen.bad else "-"
        print(f"{seen.name:<{width}}  {seen.largest:>9.3g}  {bad}")
    if first is None:
        print("\nevery array is finite: the fault does not repeat here")
        return
    print(f"\nfirst not finite: {first.name}, at index {first.first}")
    text = result.text_before(first)
    if text is not None:
        print(f"its row had read {text!r}")


def summary(options: argparse.Namespace) -> None:
    """Print a model as a table."""
    from charlm_jax.config_files import load_config

    config = load_config(options.config, options.overrides)
    from charlm_jax.console import DownloadProgress
    from charlm_jax.dataset import load_dataset
    from charlm_jax.models.flops import forward_flops
    from charlm_jax.models.summary import summarize

    if options.symbols is not None and options.symbols < 1:
        raise CharlmError(f"symbols={options.symbols} is not allowed: it must be at least 1")
    vocab_size = options.symbols
    if vocab_size is None:
        vocab_size = len(load_dataset(config, progress=DownloadProgress()).vocabulary)
    modules = summarize(config.model, vocab_size)
    parameters = sum(module.parameters for module in modules)
    length = config.data.sequence_length
    flops = forward_flops(config.model, symbols=vocab_size, sequence_length=length)
    if options.json:
        listed = [module._asdict() for module in modules]
        facts = {"parameters": parameters, "forward_flops": flops, "sequence_length": length}
        print(json.dumps({**facts, "modules": listed}))
        return
    print(f"{'module':<12} {'layer':<14} {'output':<16} {'parameters':>12}")
    for module in modules:
        shape = "(" + ", ".join(map(str, module.output_shape)) + ")"
        print(f"{module.name:<12} {module.kind:<14} {shape:<16} {module.parameters:>12,}")
    print(f"{'in all':<44} {parameters:>12,}")
    print(f"{'FLOPs a character, forwards, at length ' + str(length):<44} {flops:>12,}")


def corpora(options: argparse.Namespace) -> None:
    """List the known texts, or describe one."""
    from charlm_jax.console import DownloadProgress
    from charlm_jax.corpora import list_corpora, load_corpus

    if options.name is None:
        rows = list_corpora()
        if options.json:
            print(json.dumps([dataclasses.asdict(row) for row in rows]))
            return
        for row in rows:
            print(f"{row.name:<18} {row.characters:>10,}  {row.state}")
            print(f"{'':<18} {row.description} ({row.licence})")
        return
    corpus = load_corpus(options.name, encoding=options.encoding, progress=DownloadProgress())
    facts = {
        **corpus.facts,
        "name": corpus.name,
        "characters": corpus.characters,
        "symbols": corpus.symbols,
        "sha256": corpus.sha256,
        "source": corpus.source,
        "text_sha256": corpus.text_sha256,
    }
    if options.json:
        print(json.dumps(facts))
        return
    for name, value in facts.items():
        print(f"{name:<12} {value}")


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int | None]] = {
    "train": train,
    "sweep": sweep,
    "sample": sample,
    "evaluate": evaluate,
    "compare": compare,
    "report": report,
    "inspect": inspect,
    "runs": runs,
    "verify": verify,
    "replay": replay,
    "summary": summary,
    "corpora": corpora,
}
