"""Measurements of the atlas: the record of a run, and checks of those on record."""

from collections.abc import Mapping
from typing import Any

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.trees import count_parameters
from charlm_jax.evaluation.block_sums import block_sums
from charlm_jax.evaluation.protocol import Stream, Window
from charlm_jax.inference.run import Run
from experiments.atlas.arms import BATCH_SIZE, SEQUENCE_LENGTH, WINDOW, Preset
from experiments.block_records import to_sums
from experiments.recorded_training import RecordFolder
from experiments.run_measures import context_sums, project_commit, validation_curve
from experiments.tuned_arms import ArmRuns, arm_name, run_name

_SIZES = ("context_reach", "context_targets")


def measure_second(run: Run) -> dict[str, Any]:
    """Return the record of a run of the search, which tells its loss on the second part alone."""
    return {"second": round(run.evaluate(Stream(), split="valid")[0].loss_nats, 6)}


def measure_run(run: Run) -> dict[str, Any]:
    """Return the record of a finished run, at its best checkpoint."""
    window_N = run.evaluate(Window(WINDOW), split="test")[1]
    stream_N = run.evaluate(Stream(), split="test")[1]
    second = run.evaluate(Stream(), split="valid")[0].loss_nats
    sums = block_sums([window_N])
    return {
        "seed": run.config.seed,
        "commit": project_commit(),
        "fingerprint": run.dataset().fingerprint,
        "parameters": count_parameters(run.params),
        "curve": validation_curve(run, BATCH_SIZE * SEQUENCE_LENGTH),
        "second": round(second, 6),
        "counts": sums.counts_K.tolist(),
        "window": to_sums(sums)[0],
        "stream": to_sums(block_sums([stream_N]))[0],
    }


def measure_context(run: Run, *, preset: Preset) -> dict[str, Any]:
    """Return losses with all but the nearest n characters cut off; attention looks T back.

    Nothing is measured of other update rules than the config's own.

    Args:
      run: the run.
      preset: size of the study.
    """
    if not preset.has_context(arm_name(run)):
        return {}
    dataset = run.dataset()
    sums = context_sums(
        run,
        dataset.ids_N,
        dataset.part("test"),
        change="truncated",
        reach=preset.context_reach,
        targets=preset.context_targets,
    )
    return {
        **{size: getattr(preset, size) for size in _SIZES},
        "target_counts": next(iter(sums.values())).counts_K.tolist(),
        "by_context": {n: to_sums(x)[0] for n, x in sums.items()},
    }


def check_runs(
    records: RecordFolder,
    preset: Preset,
    runs: Mapping[str, ArmRuns],
    *,
    fingerprint: str | None = None,
) -> None:
    """Refuse records that cannot be compared.

    Args:
      records: folder of the records.
      preset: size of the study.
      runs: arms of which a run is on record, by name.
      fingerprint: fingerprint of the text; if None, that of the first record.

    Raises:
      CharlmError: a field is missing, or a record is of another text or of an effective context of
        another size.
    """
    for arm, found in runs.items():
        for index, (seed, record) in enumerate(found.records.items()):
            name = f"runs/{run_name(arm, rate=found.tuned.value, seed=seed)}"
            reads_context = index == 0 and not preset.rules
            fingerprint = fingerprint or record["fingerprint"]
            wanted = {"fingerprint": fingerprint}
            if reads_context:
                wanted |= {size: getattr(preset, size) for size in _SIZES}
            for field, value in wanted.items():
                if record[field] != value:
                    raise CharlmError(
                        f"{records.file(name)} has {field}={record[field]} and not {value}: "
                        f"remove it, or name another folder with --records"
                    )
