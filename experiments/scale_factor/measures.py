"""What a run's text is like under every setting, and how sure the run is of held-out text.

Letters of this module: N held-out characters, S samples, T characters of each, A scale factors,
B rows of a batch.
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
    split_predictions,
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
from charlm_jax.evaluation.scoring import build_scorer
from charlm_jax.inference.run import Run
from charlm_jax.sampling.categorical import sample_keys
from charlm_jax.sampling.decoding import SampleBatch, make_decoder
from charlm_jax.sampling.policies import Policy, build_policy
from experiments.scale_factor.settings import AS_IT_IS, Draws, Setting

# From 1/5 to 5, with 1 in the middle.
GRID_A = scale_grid(0.2, 5.0, 61)

_PROMPT = 40  # characters of held-out text, where the wanted prompt does not do


class Text(NamedTuple):
    """What was drawn under one setting, or human text as if it had been, at scale 1.

    Attributes:
      setting: of the policy.
      samples: the texts, without the prompt.
      judgement: measures of text.
      surprisal: nats per character, of the model at scale 1 at the text.
      entropy: nats per character, of what each was drawn from.
      entropy_ST: nats, of what every character was drawn from.
    """

    setting: Setting
    samples: Sequence[str]
    judgement: TextQuality
    surprisal: Interval
    entropy: Interval
    entropy_ST: np.ndarray

    def entropy_by_place(self, step: int) -> list[Interval]:
        """Entropy, nats per character, of the first so many places, the next, ..."""
        starts = range(0, self.entropy_ST.shape[1], step)
        return [_over_samples(self.entropy_ST[:, start : start + step]) for start in starts]


class HeldOut(NamedTuple):
    """How sure a run is of held-out text.

    Attributes:
      characters: of it.
      loss: nats per character at scale 1.
      least_loss: nats per character at the calibrated scale.
      calibrated: the scale at which the loss is least.
      loss_A: at the scales of `GRID_A`.
      entropy_A: of what would be drawn in the place of this text, at these scales.
      bins: of the reliability diagram.
      least_loss_N: nats, at the calibrated scale.
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
        """The loss at a scale of the grid's range, in nats per character."""
        return float(loss_between(scale, GRID_A, self.loss_A, self.entropy_A))


class Findings(NamedTuple):
    """All of a run.

    Attributes:
      name: of the run and its checkpoint.
      held_out: how sure the run is of it.
      human: held-out text, measured as if it had been drawn.
      texts: what was drawn, by setting.
      even: the scale at which what is drawn has as much entropy as the human text; None if that
        lies outside the settings.
    """

    name: str
    held_out: HeldOut
    human: Text
    texts: Sequence[Text]
    even: Interval | None

    def of(self, varied: str) -> list[Text]:
        """What was drawn where this was varied, the smallest value first."""
        found = [text for text in self.texts if text.setting.varied == varied]
        return sorted(found, key=lambda text: text.setting.value)


def choose_prompt(runs: Sequence[Run], wanted: str, split: str) -> str:
    """The wanted prompt, or the first characters of held-out text where that does not do.

    Raises:
      CharlmError: a run has no such part, or cannot carry its state; or it does not know the
        characters of the prompt.
    """
    for run in runs:
        if run.model.max_length is not None:
            raise CharlmError(
                f"{run.workdir} has learned positions: it cannot carry its state on, and this "
                f"study draws and scores so"
            )
    known = set.intersection(*(set(run.vocabulary.symbols) for run in runs))
    if wanted and set(wanted) <= known:
        return wanted
    dataset = runs[0].dataset()
    first = dataset.part(split)[0]
    prompt = dataset.corpus.text[first.start : min(first.stop, first.start + _PROMPT)]
    for run in runs:
        run.vocabulary.encode(prompt, what=f"the prompt for {run.workdir}")
    return prompt


def name_runs(runs: Sequence[Run]) -> list[str]:
    """By folder and checkpoint; by the whole path where two folders have one name."""
    folders = {run.workdir.resolve() for run in runs}
    names = [folder.name for folder in folders]
    return [
        f"{name if names.count(name) == 1 else run.workdir}, checkpoint {run.checkpoint}"
        for run in runs
        for name in [run.workdir.resolve().name]
    ]


class Human(NamedTuple):
    """Held-out text for drawn text to be set beside.

    Attributes:
      judge: of as much text as is drawn under a setting.
      before: what stands before each of `judge.others`, as many characters as the prompt has.
    """

    judge: TextQualityEvaluator
    before: Sequence[str]


def build_human(run: Run, draws: Draws, split: str) -> Human:
    """Cut held-out text into samples, half of them to judge by and half to be judged.

    Which is which is drawn by chance. Were it every other one, each would have a neighbour on the
    other side, and two halves of the book would be more alike than two draws from it.

    Raises:
      CharlmError: not so much is held out.
    """
    dataset, before = run.dataset(), len(draws.prompt)
    text = dataset.corpus.text
    human = human_samples(
        text,
        dataset.part(split),
        samples=2 * draws.samples,
        characters=before + draws.characters,
    )
    order = np.random.default_rng(0).permutation(len(human))
    human = [human[place] for place in order]
    judge = build_text_quality_evaluator(
        text, dataset.part("train"), [sample[before:] for sample in human]
    )
    return Human(judge, [sample[:before] for sample in human[1::2]])


def measure_run(
    name: str,
    run: Run,
    draws: Draws,
    settings: Sequence[Setting],
    human: Human,
    *,
    split: str,
) -> Findings:
    """Draw under every setting, and judge what was drawn.

    Args:
      name: of the run, see `name_runs`.
      run: that draws, its state carried.
      draws: how much.
      settings: to draw under.
      human: text of the same amount; see `build_human`.
      split: the held-out part.

    Raises:
      CharlmError: bad numbers, nothing held out.
    """
    held_out = measure_held_out(run, split)
    by_varied: dict[str, list[Setting]] = {}
    for setting in settings:
        by_varied.setdefault(setting.varied, []).append(setting)
    prompt_N = run.vocabulary.encode(draws.prompt)
    texts = [
        text
        for alike in by_varied.values()
        for text in _draw(run, prompt_N, draws, alike, human.judge)
    ]
    scales = [text for text in texts if text.setting.varied == "scale"]
    even = _even_scale(scales, held_out)
    return Findings(name, held_out, _read_human(run, human), texts, even)


def measure_held_out(run: Run, split: str) -> HeldOut:
    """One pass over held-out text, the state carried through it."""
    dataset = run.dataset()
    part = dataset.part(split)
    score = build_scorer(
        run.model,
        mode="stream",
        context=run.config.data.sequence_length,
        batch_size=1,
        measure=measure_predictions(GRID_A),
    )
    found_NX = score(run.params, jnp.asarray(dataset.ids_N), part)
    predictions = split_predictions(found_NX, len(GRID_A))
    calibrated = calibrated_scale(GRID_A, predictions)
    by_scale = GRID_A, predictions.loss_NA, predictions.entropy_NA
    least_loss_N = loss_between(calibrated.mean, *by_scale)
    return HeldOut(
        characters=len(found_NX),
        loss=mean_interval([loss_between(1.0, *by_scale)]),
        least_loss=mean_interval([least_loss_N]),
        calibrated=calibrated,
        loss_A=predictions.loss_NA.mean(axis=0, dtype=np.float64),
        entropy_A=predictions.entropy_NA.mean(axis=0, dtype=np.float64),
        bins=reliability(predictions),
        least_loss_N=least_loss_N,
    )


def _draw(
    run: Run,
    prompt_N: np.ndarray,
    draws: Draws,
    settings: Sequence[Setting],
    judge: TextQualityEvaluator,
) -> list[Text]:
    """Draw under settings that vary the same, all at once."""
    samples = draws.samples
    each = [setting for setting in settings for _ in range(samples)]
    policy = build_policy(
        scale=[setting.scale for setting in each],
        top_k=[setting.top_k for setting in each],
        top_p=[setting.top_p for setting in each],
        min_p=[setting.min_p for setting in each],
    )
    ids_BT, scores = _draw_rows(run, prompt_N, draws, policy)
    texts = []
    for number, setting in enumerate(settings):
        own = slice(number * samples, (number + 1) * samples)
        drawn = [run.vocabulary.decode(ids_T) for ids_T in ids_BT[own]]
        own_scores = SampleSurprisal(*(x_BT[own] for x_BT in scores))
        texts.append(_measured(setting, drawn, judge.judge(drawn), own_scores))
    return texts


def _read_human(run: Run, human: Human) -> Text:
    """What the run makes of human text, each sample read from what stands before it on."""
    samples = human.judge.others
    before_BN, ids_BT = (
        np.stack([run.vocabulary.encode(text) for text in texts])
        for texts in (human.before, samples)
    )
    policy = build_policy(scale=[1.0] * len(samples))
    score = make_sample_scorer(run.model, context=run.config.data.sequence_length)
    scores = score(run.params, before_BN, ids_BT, policy)
    return _measured(AS_IT_IS, samples, human.judge.human, scores)


def _measured(
    setting: Setting, samples: Sequence[str], judgement: TextQuality, scores: SampleSurprisal
) -> Text:
    surprisal, entropy = (_over_samples(x_ST) for x_ST in scores)
    return Text(setting, samples, judgement, surprisal, entropy, scores.entropy_BT)


def _over_samples(x_ST: np.ndarray) -> Interval:
    return mean_interval([x_ST.mean(axis=1, dtype=np.float64)], block=1)


def _draw_rows(
    run: Run, prompt_N: np.ndarray, draws: Draws, policy: Policy
) -> tuple[np.ndarray, SampleSurprisal]:
    """ids_BT, the same noise under every setting, and what the model makes of them."""
    context = run.config.data.sequence_length
    settings = len(policy.scale_B) // draws.samples
    keys_B = jnp.tile(sample_keys(draws.seed, draws.samples), settings)
    decode = make_decoder(run.model, mode="carried", context=context)
    pieces = decode(run.params, prompt_N, SampleBatch(keys_B, policy), draws.characters)
    ids_BT = np.concatenate(list(pieces), axis=1)
    score = make_sample_scorer(run.model, context=context)
    return ids_BT, score(run.params, prompt_N, ids_BT, policy)


def _even_scale(texts: Sequence[Text], held_out: HeldOut) -> Interval | None:
    """The scale at which drawn text has the entropy of the human text, from both's spread.

    Of the human text's entropy the best that the run can say is its least held-out loss.
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
