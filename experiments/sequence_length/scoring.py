"""Measurement of a text and of a trained run: what their records contain."""

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from charlm_jax.analysis.gradient_norms import gradient_norms_by_distance
from charlm_jax.analysis.loss_breakdown import (
    CLASSES,
    character_classes,
    geometric_bins,
    positions_in_window,
)
from charlm_jax.analysis.text_quality import (
    TextQualityEvaluator,
    build_text_quality_evaluator,
    human_samples,
)
from charlm_jax.core.trees import count_parameters
from charlm_jax.data.dataset import Dataset
from charlm_jax.data.splits import Part, size
from charlm_jax.evaluation.baselines import compressed_bits_per_char
from charlm_jax.evaluation.block_sums import block_sums
from charlm_jax.evaluation.ngram import tuned_ngram
from charlm_jax.evaluation.protocol import EvalProtocol, Stream, Window
from charlm_jax.inference.run import Run
from charlm_jax.models.flops import train_flops
from experiments.block_records import WIDE_BLOCK, Sums, to_sums
from experiments.run_measures import (
    attention_reach,
    context_sums,
    project_commit,
    target_places,
    target_sums,
    validation_curve,
)
from experiments.sequence_length.arms import BATCH_CHARACTERS, WINDOW, Arm, Preset
from experiments.sequence_length.records import (
    RunRecord,
    TextRecord,
    quality_values,
)

CHANGES = ("truncated", "shuffled")
PROMPT_CHARACTERS = 10
_LONGEST_ORDER = 12


class Scorer:
    """Measurements on one text.

    Args:
      preset: size of the measurements.
      dataset: the text and its split.
    """

    def __init__(self, preset: Preset, dataset: Dataset) -> None:
        self.preset = preset
        self.dataset = dataset
        self.part = dataset.part("test")

    def text_record(self) -> TextRecord:
        """Measure the text, an n-gram and compressors."""
        dataset = self.dataset
        train = dataset.part("train")
        ngram = tuned_ngram(
            dataset.ids_N,
            train,
            symbols=len(dataset.vocabulary),
            orders=range(1, _LONGEST_ORDER + 1),
        )

        def losses(protocol: EvalProtocol, part: Part) -> np.ndarray:
            return ngram.nll(dataset.ids_N, protocol.read_stretches(part))

        protocols: Mapping[str, EvalProtocol] = {"window": Window(WINDOW), "stream": Stream()}
        contexts = sorted({self.preset.watched_context(arm) for arm in self.preset.arms()})
        valid, most = dataset.part("valid"), self.preset.watched
        watched = {
            str(context): float(losses(window, window.spread(valid, most=most)).mean())
            for context, window in ((context, Window(context)) for context in contexts)
        }
        texts = (
            "".join(dataset.corpus.text[x.start : x.stop] for x in part)
            for part in (train, self.part)
        )
        compressed = compressed_bits_per_char(*texts, encoding="utf-8")
        targets_P = target_places(
            self.part, reach=self.preset.context_reach, targets=self.preset.context_targets
        )
        return TextRecord(
            corpus=Path(self.preset.corpus).name,
            fingerprint=dataset.fingerprint,
            symbols=len(dataset.vocabulary),
            characters={name: size(part) for name, part in dataset.parts.items()},
            compressed={name: round(bits * math.log(2), 6) for name, bits in compressed.items()},
            ngram_order=ngram.order,
            ngram={
                rule: to_sums(block_sums([losses(protocol, self.part)]))[0]
                for rule, protocol in protocols.items()
            },
            ngram_watched={context: round(loss, 6) for context, loss in watched.items()},
            sizes=self.preset.sizes,
            counts=block_sums([np.zeros(len(self._class_N))]).counts_K.tolist(),
            class_counts=_counts(self._classes),
            place_counts=_counts(self._places),
            target_counts=target_sums(np.zeros(len(targets_P)), targets_P).counts_K.tolist(),
            human=quality_values(self._judge.human),
        )

    def run_record(self, arm: Arm, run: Run) -> RunRecord:
        """Measure a finished run at its best checkpoint.

        Args:
          arm: arm of the run.
          run: the run.
        """
        context = arm.length if run.model.keeps_positions else None
        window_N = run.evaluate(Window(WINDOW), split="test")[1]
        stream_N = run.evaluate(Stream(context), split="test")[1]
        far_N = run.evaluate(Window(self.preset.reach), split="test")[1]
        second = {
            "window": run.evaluate(Window(WINDOW), split="valid")[0].loss_nats,
            "stream": run.evaluate(Stream(context), split="valid")[0].loss_nats,
        }
        steps = run.config.train.max_steps
        return RunRecord(
            arm=arm,
            seed=run.config.seed,
            commit=project_commit(),
            rate=run.config.optimizer.learning_rate,
            parameters=count_parameters(run.params),
            characters=steps * BATCH_CHARACTERS,
            curve=validation_curve(run, BATCH_CHARACTERS),
            best_characters=run.checkpoint * BATCH_CHARACTERS,
            flops=float(
                BATCH_CHARACTERS
                * steps
                * train_flops(
                    run.config.model,
                    symbols=len(self.dataset.vocabulary),
                    sequence_length=arm.length,
                )
            ),
            second={rule: round(loss, 6) for rule, loss in second.items()},
            window=to_sums(block_sums([window_N]))[0],
            stream=to_sums(block_sums([stream_N]))[0],
            by_class=_group_sums(stream_N, self._classes),
            by_place=self._by_place(window_N, stream_N, far_N),
            by_context=None,
            gradients=None,
            quality=None,
        )

    def more(self, run: Run) -> dict[str, Any]:
        """Measure what is only measured of one run of an arm: the slow parts of its record."""
        return {
            "by_context": self._by_context(run),
            "gradients": self._gradients(run),
            "quality": self._quality(run),
        }

    @functools.cached_property
    def _class_N(self) -> np.ndarray:
        return character_classes(self.dataset.corpus.text, self.part)

    @functools.cached_property
    def _classes(self) -> dict[str, np.ndarray]:
        """Masks of the kinds of characters that occur."""
        masks = {name: self._class_N == index for index, name in enumerate(CLASSES)}
        return {name: mask_N for name, mask_N in masks.items() if mask_N.any()}

    @functools.cached_property
    def _places(self) -> dict[str, np.ndarray]:
        """Masks of the characters at each number of characters read before, in geometric bins.

        Bins inside the shorter windows are those of the shorter windows, where they occur more
        often.
        """
        masks = {}
        for first, last in geometric_bins(self.preset.reach):
            context = WINDOW if last <= WINDOW else self.preset.reach
            place_N = positions_in_window(self.part, context)
            masks[bin_name(first, last)] = (first <= place_N) & (place_N <= last)
        return masks

    def _by_place(
        self, window_N: np.ndarray, stream_N: np.ndarray, far_N: np.ndarray
    ) -> dict[str, Sums]:
        """Return the losses by place, adjusted for hard characters.

        The stream loss of the same run at the same character is a control variate: it is
        subtracted, and the run's mean stream loss is added.
        """
        usual_N = stream_N - stream_N.mean(dtype=np.float64)
        names = list(self._places)
        near = sum(last <= WINDOW for _, last in geometric_bins(self.preset.reach))
        return {
            **_group_sums(window_N - usual_N, {x: self._places[x] for x in names[:near]}),
            **_group_sums(far_N - usual_N, {x: self._places[x] for x in names[near:]}),
        }

    def _by_context(self, run: Run) -> dict[str, dict[str, Sums]]:
        """Return losses with distant characters changed; attention looks T characters back."""
        found = {}
        for change in CHANGES:
            sums = context_sums(
                run,
                self.dataset.ids_N,
                self.part,
                change=change,
                reach=self.preset.context_reach,
                targets=self.preset.context_targets,
            )
            found[change] = {n: to_sums(x)[0] for n, x in sums.items()}
        return found

    def _gradients(self, run: Run) -> dict[str, float]:
        """Return the mean norm of the gradient by distance, in geometric bins."""
        reach = attention_reach(run, self.preset.context_reach)
        norm_PT = gradient_norms_by_distance(
            run.model,
            run.params,
            self.dataset.ids_N,
            self.part,
            reach=reach,
            targets=self.preset.context_targets,
        )
        return {
            bin_name(first, last): float(f"{norm_PT[:, first - 1 : last].mean():.4g}")
            for first, last in geometric_bins(reach)
        }

    @functools.cached_property
    def _judge(self) -> TextQualityEvaluator:
        preset, text = self.preset, self.dataset.corpus.text[:]
        human = human_samples(
            text,
            self.part,
            samples=2 * preset.samples,
            characters=preset.sample_characters,
        )
        return build_text_quality_evaluator(text, self.dataset.part("train"), human)

    def _quality(self, run: Run) -> dict[str, Any]:
        """Return the measures of texts that continue the second part, sampled at scale 1."""
        preset, start = self.preset, self.part[0].start
        pieces = run.sample(
            self.dataset.corpus.text[start - PROMPT_CHARACTERS : start],
            characters=preset.sample_characters,
            samples=preset.samples,
            seed=1,
        )
        texts = ["".join(chunk.text for chunk in chunks) for chunks in zip(*pieces, strict=True)]
        return quality_values(self._judge.evaluate(texts))


def bin_name(first: int, last: int) -> str:
    """Return the label of a bin.

    >>> bin_name(4, 4), bin_name(5, 6)
    ('4', '5-6')
    """
    return f"{first}" if first == last else f"{first}-{last}"


def _group_sums(nll_N: np.ndarray, masks: Mapping[str, np.ndarray]) -> dict[str, Sums]:
    return {
        name: to_sums(block_sums([nll_N], mask_N=mask_N, block=WIDE_BLOCK))[0]
        for name, mask_N in masks.items()
    }


def _counts(masks: Mapping[str, np.ndarray]) -> dict[str, Sequence[int]]:
    return {
        name: block_sums([np.zeros(len(mask_N))], mask_N=mask_N, block=WIDE_BLOCK).counts_K.tolist()
        for name, mask_N in masks.items()
    }
