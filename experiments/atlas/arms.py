"""Models and update rules of the presets."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from charlm_jax.config.loading import load_config
from experiments.tuned_arms import Effort, TunedArm, fit_width

SEQUENCE_LENGTH, BATCH_SIZE, WINDOW, SYMBOLS = 64, 32, 64, 80

Fields = Mapping[str, Any]

_TEXT: Fields = {
    "data.corpus": "mysterious-island",
    "data.loader": "crops",
    "data.sequence_length": SEQUENCE_LENGTH,
    "data.batch_size": BATCH_SIZE,
    "split.test_fraction": 0.1,
    "evaluation.context": WINDOW,
    "evaluation.max_characters": 51_200,
    "train.epochs": 1_000,
}
_BLOCKS: Fields = {
    "model.block": "pre_norm",
    "model.norm": "rms_norm",
    "model.mlp": "relu2",
    "model.init": "keras",
    "model.zero_init": True,
    "model.heads": 4,
    "model.state_size": 32,
}
_ATTENTION: Fields = {"model.position": "rotary", "model.qk_norm": True}


def _stack(*layers: str, rate: float) -> Fields:
    more = _ATTENTION if "attention" in layers else {}
    return {**_BLOCKS, **more, "model.layers": layers, "optimizer.learning_rate": rate}


def _bare(layer: str, rate: float, **more: Any) -> Fields:
    return {"model.layers": (layer,), "optimizer.learning_rate": rate, **more}


MODELS: Mapping[str, Fields] = {
    "lstm, bare": _bare("lstm", 0.04),
    "gru, bare": _bare("gru", 0.02),
    "rnn, bare": _bare("rnn", 0.01),
    "mogrifier, bare": _bare("lstm", 0.02, **{"model.mogrifier_rounds": 5}),
    **{
        name: _stack(*[name] * 3, rate=0.01)
        for name in (
            "lstm",
            "gru",
            "rnn",
            "mingru",
            "minlstm",
            "rglru",
            "mlstm",
            "slstm",
            "gated_deltanet",
            "mamba2",
        )
    },
    "attention": _stack(*["attention"] * 3, rate=0.004),
    "lstm and attention": _stack("lstm", "attention", rate=0.01),
}
"""Layers alone (bare), or three equal blocks of a layer and an MLP; the last has one of each."""

_LARGE = (
    "lstm",
    "gru",
    "mingru",
    "rglru",
    "mlstm",
    "gated_deltanet",
    "mamba2",
    "attention",
    "lstm and attention",
)

BARE, STACKS = "bare layers", "stacks"
"""Families of models: layers alone, and blocks of a layer and an MLP."""

REFERENCE = "adam"
"""The rule of the config itself."""
_RULES: Mapping[str, Fields] = {
    REFERENCE: {},
    "adamw": {"optimizer.weight_decay": 0.1},
    "muon": {"optimizer.rule": "muon"},
    "schedule-free": {"optimizer.rule": "schedule_free", "optimizer.schedule": "constant"},
}
_UPDATES: Mapping[str, str] = {
    REFERENCE: "Adam",
    "adamw": "Adam with decoupled weight decay",
    "muon": "Muon for the matrices of layers and MLPs, and Adam for the embedding, the output "
    "layer, convolutions, biases and norms",
    "schedule-free": "AdamW at a point between the weights and their average, which is scored",
}
_SCHEDULES = {"cosine": "a rate that falls to 0 as a cosine", "constant": "a constant rate"}


class Preset(NamedTuple):
    """Size of the study.

    Attributes:
      name: name of the preset.
      models: names of models, of `MODELS`.
      rules: update rules to compare for each model; the config's own alone if empty.
      parameters: number of parameters of each model, about.
      effort: effort of each arm.
      context_reach: longest context for the effective context, in characters.
      context_targets: number of targets for the effective context.
    """

    name: str
    models: tuple[str, ...]
    rules: tuple[str, ...]
    parameters: int
    effort: Effort
    context_reach: int = 256
    context_targets: int = 2_000

    def names(self) -> dict[str, tuple[str, str]]:
        """Return the model and the update rule of every arm, by the arm's name."""
        pairs = [(model, rule) for model in self.models for rule in self.rules or ("",)]
        return {_file_name(*pair): pair for pair in pairs}

    def arms(self, only: Sequence[str] = ()) -> list[TunedArm]:
        """Return the arms.

        Args:
          only: names of the models to return; all if empty.
        """
        return [
            TunedArm(name, "lstm", self.fields(model, rule))
            for name, (model, rule) in self.names().items()
            if not only or model in only
        ]

    def fields(self, model: str, rule: str = "") -> dict[str, Any]:
        """Return the config fields of a model and an update rule.

        Args:
          model: name of the model.
          rule: name of the rule; that of the config if empty.
        """
        width = _width(model, self.parameters)
        return {
            **_TEXT,
            **MODELS[model],
            **(_RULES[rule] if rule else {}),
            "model.embedding_size": width,
            "model.hidden_size": width,
        }

    def family(self, model: str) -> str:
        """Return the name of the family in which a model is compared.

        It is the model itself if update rules are compared, else `BARE` or `STACKS`.
        """
        if self.rules:
            return model
        return STACKS if "model.block" in MODELS[model] else BARE

    def has_context(self, arm: str) -> bool:
        """Return whether the effective context of an arm is measured: under the config's own rule.

        A preset of rules does not show it, but shares these runs with one of layers.
        """
        return self.names()[arm][1] in ("", REFERENCE)

    def describe_rule(self, rule: str) -> str:
        """Return a sentence on an update rule."""
        optimizer = load_config("lstm", self.fields(self.models[0], rule)).optimizer
        decay = "no weight decay"
        if optimizer.weight_decay:
            decay = f"weight decay {optimizer.weight_decay:g} of kernels"
        return (
            f"`{rule}`: {_UPDATES[rule]}; {decay}; gradients clipped to a norm of "
            f"{optimizer.clip_norm:g}; a linear warm-up of {optimizer.warmup_steps} steps, then "
            f"{_SCHEDULES[optimizer.schedule]}."
        )


@functools.cache
def _width(model: str, parameters: int) -> int:
    return fit_width("lstm", MODELS[model], parameters=parameters, symbols=SYMBOLS)


def _file_name(model: str, rule: str) -> str:
    """Return the name of an arm; the config's own rule is not in it, whether compared or not."""
    words = model.replace(",", "").replace(" ", "-")
    return words if rule in ("", REFERENCE) else f"{words}-{rule}"


PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "minutes",
            ("lstm, bare", "minlstm", "attention"),
            (),
            50_000,
            Effort(3, 204_800, (1,)),
            context_reach=64,
            context_targets=200,
        ),
        Preset("small", tuple(MODELS), (), 300_000, Effort(4, 749_568, (1, 2, 3), scores=12)),
        Preset("large", _LARGE, (), 1_000_000, Effort(4, 749_568, (1, 2), scores=12)),
        Preset(
            "optimizers",
            ("lstm, bare", "mingru", "attention"),
            tuple(_RULES),
            300_000,
            Effort(4, 749_568, (1, 2, 3), scores=12),
        ),
    )
}
