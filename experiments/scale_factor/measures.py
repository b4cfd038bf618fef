"""Measurements of a run: its sampled text under every setting, and its calibration.

Dimensions in this module: N held-out characters, S samples, T characters per sample, A scale
factors, B rows of a batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from charlm_jax.analysis.calibration import (
    Bin,
    calibrated_scale,
    loss_between,
    measure_predictions,
    reliability,
    scale_grid,
    zero_crossing,
)
from charlm_jax.analysis.sample_surprisal import SampleSurprisal, make_sample_scorer
from charlm_jax.analysis.text_quality import (
    TextQuality,
    TextQualityEvaluator,
    build_text_quality_evaluator,
    human_samples,
)
from charlm_jax.core.errors import CharlmError
from charlm_jax.evaluation.bootstrap import Interval, mean_interval
from charlm_jax.evaluation.protocol import Stream
from charlm_jax.evaluation.scoring import build_scorer
from charlm_jax.inference.run import Run
from charlm_jax.sampling.categorical import sample_keys
from charlm_jax.sampling.decoding import SampleBatch, make_decoder
from charlm_jax.sampling.policies import Policy, build_policy
from experiments.scale_factor.settings import UNCHANGED, SamplePlan, Setting

GRID_A = scale_grid(0.2, 5.0, 61)  # 1 is in the middle

_PROMPT = 40  # length of the held-out text that replaces an unusable prompt, in characters


class MeasuredText(NamedTuple):
    """Samples of one setting with their measurements, or human text measured in the same way.

    Attributes:
      setting: sampling setting; scale 1 without truncation for human text.
      samples: texts without the prompt.
      judgement: text quality.
      surprisal: surprisal of the text under the model at scale 1, in nats per character.
      entropy: entropy of the distributions sampled from, in nats per character.
      entropy_ST: entropy of the distribution that each character was sampled from, in nats.
    """

    setting: Setting
    samples: Sequence[str]
    judgement: TextQuality
    surprisal: Interval
    entropy: Interval
    entropy_ST: np.ndarray

    @property
    def excess(self) -> Interval:
        """Excess divergence from human text over the divergence within either, in bits."""
        assert self.judgement.excess_bits is not None  # a study has 4 samples or more
        return self.judgement.excess_bits

    def entropy_by_place(self, step: int) -> list[Interval]:
        """Entropy in nats per character, averaged over successive spans of `step` characters."""
        starts = range(0, self.entropy_ST.shape[1], step)
        return [_over_samples(self.entropy_ST[:, start : start + step]) for start in starts]


class HeldOut(NamedTuple):
    """Predictions of a run on held-out text.

    Attributes:
      characters: number of scored characters.
      loss: loss at scale 1, in nats per character.
      least_loss: loss at the calibrated scale, in nats per character.
      calibrated: scale with the smallest loss.
      loss_A: mean loss at each scale of `GRID_A`.
      entropy_A: mean entropy of the predictions at each scale of `GRID_A`.
      bins: bins of the reliability diagram.
      least_loss_N: per-character losses at the calibrated scale, in nats.
    """

    characters: int
    loss: Interval
    least_loss: Interval
    calibrated: Interval
    loss_A: np.ndarray
    entropy_A: np.ndarray
    bins: Sequence[Bin]
    least_loss_N: np.ndarray

    def loss_at(self, scale: float) -> float:
        """Return the loss at a scale within the grid, in nats per character."""
        return float(loss_between(scale, GRID_A, self.loss_A, self.entropy_A))


class RunResults(NamedTuple):
    """All measurements of one run.

    Attributes:
      name: name of the run and its checkpoint.
      held_out: predictions on held-out text.
      human: held-out text, measured like the samples.
      texts: samples of each setting.
      even: scale at which the entropy of the samples equals the smallest held-out loss; None if it
        lies outside the settings.
    """

    name: str
    held_out: HeldOut
    human: MeasuredText
    texts: Sequence[MeasuredText]
    even: Interval | None

    def of(self, varied: str) -> list[MeasuredText]:
        """Return the settings that vary this field, in ascending order."""
        texts = [text for text in self.texts if text.setting.varied == varied]
        return sorted(texts, key=lambda text: text.setting.value)

    def nearest(self, varied: str) -> MeasuredText:
        """Return the setting with the smallest excess among those that vary this field."""
        return min(self.of(varied), key=lambda text: text.excess.mean)


def check_runs(runs: Sequence[Run]) -> None:
    """Refuse runs that cannot be measured.

    Raises:
      CharlmError: a run cannot carry its state, or models bytes.
    """
    for run in runs:
        if run.vocabulary.unit == "bytes":
            raise CharlmError(
                f"{run.workdir} models bytes: this study counts and compares characters, so give "
                f"runs with config.data.unit=characters"
            )
        if run.model.max_length is not None:
            raise CharlmError(
                f"{run.workdir} has learned positions: it cannot carry its state through a text, "
                f"as this study does"
            )


def choose_prompt(runs: Sequence[Run], typed: str | None, split: str) -> str:
    """Return the typed prompt, or else the default, or the start of held-out text.

    The default is used if every run's vocabulary has its characters.

    Raises:
      CharlmError: the typed prompt is empty, a run has no such split, or a run lacks characters of
        the prompt.
    """
    if typed == "":
        raise CharlmError("--prompt is empty: give at least one character")
    prompt = SamplePlan().prompt if typed is None else typed
    known = set.intersection(*(set(run.vocabulary.symbols) for run in runs))
    if typed is None and not set(prompt) <= known:
        dataset = runs[0].dataset()
        first = dataset.part(split)[0]
        prompt = dataset.corpus.text[first.start : min(first.stop, first.start + _PROMPT)]
    for run in runs:
        run.vocabulary.encode(
            prompt, what=f"the prompt for {run.workdir}", advice="leave out --prompt"
        )
    return prompt


def name_runs(runs: Sequence[Run]) -> list[str]:
    """Return names of folder and checkpoint, with the whole path if two folders share a name."""
    folders = {run.workdir.resolve() for run in runs}
    names = [folder.name for folder in folders]
    return [
        f"{name if names.count(name) == 1 else run.workdir}, checkpoint {run.checkpoint}"
        for run in runs
        for name in [run.workdir.resolve().name]
    ]


class HumanText(NamedTuple):
    """Held-out text that samples are compared with.

    Attributes:
      judge: evaluator that holds as much human text as is sampled under one setting.
      before: text before each of `judge.others`, with the length of the prompt.
    """

    judge: TextQualityEvaluator
    before: Sequence[str]


def build_human_text(run: Run, plan: SamplePlan, split: str) -> HumanText:
    """Cut held-out text into pieces: half are the reference, half are measured like samples.

    The halves are chosen at random. Alternating pieces would all have a neighbour in the other
    half, and the halves would be more alike than two random pieces of the book.

    Raises:
      CharlmError: too little text is held out.
    """
    dataset, before = run.dataset(), len(plan.prompt)
    text = dataset.corpus.text[:]
    human = human_samples(
        text,
        dataset.part(split),
        samples=2 * plan.samples,
        characters=before + plan.characters,
    )
    order = np.random.default_rng(0).permutation(len(human))
    human = [human[index] for index in order]
    judge = build_text_quality_evaluator(
        text, dataset.part("train"), [sample[before:] for sample in human]
    )
    return HumanText(judge, [sample[:before] for sample in human[1::2]])


def measure_run(
    name: str,
    run: Run,
    plan: SamplePlan,
    settings: Sequence[Setting],
    human: HumanText,
    *,
    split: str,
) -> RunResults:
    """Sample under every setting and measure the samples.

    Args:
      name: name of the run; see `name_runs`.
      run: run to sample from, decoding with carried state.
      plan: prompt, number and length of the samples.
      settings: sampling settings to evaluate.
      human: the same amount of human text; see `build_human_text`.
      split: held-out split.

    Raises:
      CharlmError: a sampling setting is out of range, or no text is held out.
    """
    held_out = measure_held_out(run, split)
    by_varied: dict[str, list[Setting]] = {}
    for setting in settings:
        by_varied.setdefault(setting.varied, []).append(setting)
    prompt_N = run.vocabulary.encode(plan.prompt)
    texts = [
        text
        for alike in by_varied.values()
        for text in _sample(run, prompt_N, plan, alike, human.judge)
    ]
    scales = [text for text in texts if text.setting.varied == "scale"]
    even = _even_scale(scales, held_out)
    return RunResults(name, held_out, _read_human(run, human), texts, even)


def measure_held_out(run: Run, split: str) -> HeldOut:
    """Score held-out text once, carrying the state through it."""
    dataset = run.dataset()
    part = dataset.part(split)
    score = build_scorer(
        run.model,
        Stream(run.config.data.sequence_length),
        batch_size=1,
        measure=measure_predictions(GRID_A),
    )
    predictions = score(run.params, jnp.asarray(dataset.ids_N), part)
    calibrated = calibrated_scale(GRID_A, predictions)
    by_scale = GRID_A, predictions.loss_NA, predictions.entropy_NA
    least_loss_N = loss_between(calibrated.mean, *by_scale)
    return HeldOut(
        characters=len(predictions.loss_NA),
        loss=mean_interval([loss_between(1.0, *by_scale)]),
        least_loss=mean_interval([least_loss_N]),
        calibrated=calibrated,
        loss_A=predictions.loss_NA.mean(axis=0, dtype=np.float64),
        entropy_A=predictions.entropy_NA.mean(axis=0, dtype=np.float64),
        bins=reliability(predictions),
        least_loss_N=least_loss_N,
    )


def _sample(
    run: Run,
    prompt_N: np.ndarray,
    plan: SamplePlan,
    settings: Sequence[Setting],
    judge: TextQualityEvaluator,
) -> list[MeasuredText]:
    """Sample in one batch under settings that vary the same field."""
    samples = plan.samples
    each = [setting for setting in settings for _ in range(samples)]
    policy = build_policy(
        scale=[setting.scale for setting in each],
        top_k=[setting.top_k for setting in each],
        top_p=[setting.top_p for setting in each],
        min_p=[setting.min_p for setting in each],
    )
    ids_BT, scores = _sample_rows(run, prompt_N, plan, policy)
    texts = []
    for number, setting in enumerate(settings):
        own = slice(number * samples, (number + 1) * samples)
        drawn = [run.vocabulary.decode(ids_T) for ids_T in ids_BT[own]]
        own_scores = SampleSurprisal(*(x_BT[own] for x_BT in scores))
        texts.append(_measured(setting, drawn, judge.evaluate(drawn), own_scores))
    return texts


def _read_human(run: Run, human: HumanText) -> MeasuredText:
    """Measure human text, each piece read after the characters before it."""
    samples = human.judge.others
    before_BN, ids_BT = (
        np.stack([run.vocabulary.encode(text) for text in texts])
        for texts in (human.before, samples)
    )
    policy = build_policy(scale=[1.0] * len(samples))
    score = make_sample_scorer(run.model, context=run.config.data.sequence_length)
    scores = score(run.params, before_BN, ids_BT, policy)
    return _measured(UNCHANGED, samples, human.judge.human, scores)


def _measured(
    setting: Setting, samples: Sequence[str], judgement: TextQuality, scores: SampleSurprisal
) -> MeasuredText:
    surprisal, entropy = (_over_samples(x_ST) for x_ST in scores)
    return MeasuredText(setting, samples, judgement, surprisal, entropy, scores.entropy_BT)


def _over_samples(x_ST: np.ndarray) -> Interval:
    return mean_interval([x_ST.mean(axis=1, dtype=np.float64)], block=1)


def _sample_rows(
    run: Run, prompt_N: np.ndarray, plan: SamplePlan, policy: Policy
) -> tuple[np.ndarray, SampleSurprisal]:
    """Return ids_BT, sampled with the same noise under every setting, and their surprisal."""
    context = run.config.data.sequence_length
    settings = len(policy.scale_B) // plan.samples
    keys_B = jnp.tile(sample_keys(plan.seed, plan.samples), settings)
    decode = make_decoder(run.model, mode="carried", context=context)
    pieces = decode(run.params, prompt_N, SampleBatch(keys_B, policy), plan.characters)
    ids_BT = np.concatenate(list(pieces), axis=1)
    score = make_sample_scorer(run.model, context=context)
    return ids_BT, score(run.params, prompt_N, ids_BT, policy)


def _even_scale(texts: Sequence[MeasuredText], held_out: HeldOut) -> Interval | None:
    """Return the scale at which the samples' entropy equals the smallest held-out loss.

    That loss is the run's best estimate of the entropy of human text.
    """
    ordered = sorted(texts, key=lambda text: text.setting.scale)
    scales_A = np.array([text.setting.scale for text in ordered])
    is_usable_A = (scales_A > 0) & np.isfinite(scales_A)
    if is_usable_A.sum() < 2:
        return None
    by_sample = [text.entropy_ST.mean(axis=1, dtype=np.float64) for text in ordered]
    entropy_SA = np.stack(by_sample, axis=1)[:, is_usable_A]
    return zero_crossing(
        scales_A[is_usable_A],
        entropy_SA - held_out.least_loss.mean,
        block=1,
        others_M=held_out.least_loss_N,
    )
