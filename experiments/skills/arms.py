"""Models and skills of the study."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from charlm_jax.data.skills import TASKS
from charlm_jax.data.synthetic import parse_source
from experiments.tuned_arms import Effort, TunedArm, fit_width

SEQUENCE_LENGTH, BATCH_SIZE = 128, 20

# Place in its episode from which an answer counts: after 15 bits and `=` in parity. Shorter strings
# are there to learn from: of all test strings, 59 % are in the training text, and of these 3 %.
FIRST_PLACES: Mapping[str, int] = {"parity": 17}

# Two equal blocks of a layer and an MLP for every kind of layer.
_BLOCKS: Mapping[str, Any] = {
    "model.block": "pre_norm",
    "model.norm": "rms_norm",
    "model.mlp": "relu2",
    "model.init": "keras",
    "model.zero_init": True,
    "model.heads": 2,
    "model.state_size": 16,
}
_ATTENTION: Mapping[str, Any] = {"model.position": "rotary", "model.qk_norm": True}
LAYERS: Mapping[str, tuple[str, str]] = {
    **{
        name: (name, name)
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
            "attention",
        )
    },
    "mogrifier": ("lstm", "lstm"),
    "lstm and attention": ("lstm", "attention"),
}
_OWN: Mapping[str, Mapping[str, Any]] = {"mogrifier": {"model.mogrifier_rounds": 5}}
RATES: Mapping[str, float] = {"attention": 0.004, "lstm and attention": 0.008}
_RATE = 0.01


class Preset(NamedTuple):
    """Size of the study.

    Attributes:
      tasks: skills, each with the parameters of its text.
      layers: names of the models, of `LAYERS`.
      parameters: number of parameters of each model, within 5 %.
      characters: length of the text.
      effort: effort of each arm.
    """

    tasks: Mapping[str, str]
    layers: tuple[str, ...]
    parameters: int
    characters: int
    effort: Effort

    def corpus(self, task: str) -> str:
        """Return the text of a skill with all its parameters, as in `config.data.corpus`."""
        own = f"{self.tasks[task]}," if self.tasks[task] else ""
        return parse_source(f"synthetic:task={task},{own}characters={self.characters},seed=1").spec

    def arms(self, only: Sequence[str] = ()) -> list[TunedArm]:
        """Return the arms, those of a skill together.

        Args:
          only: names of the models to return; all if empty.
        """
        models = {name: self.model(name) for name in self.layers if not only or name in only}
        return [
            TunedArm(arm_name(task, name), "lstm", {**fields, "data.corpus": self.corpus(task)})
            for task in self.tasks
            for name, fields in models.items()
        ]

    def model(self, name: str) -> dict[str, Any]:
        """Return the config fields of a model, apart from its text.

        Args:
          name: name of the model.
        """
        layers = LAYERS[name]
        has_attention = "attention" in layers
        fields = {
            **_BLOCKS,
            **(_ATTENTION if has_attention else {}),
            **_OWN.get(name, {}),
            "model.layers": layers,
            "optimizer.learning_rate": RATES.get(name, _RATE),
        }
        # Two heads; rotary positions turn pairs of numbers.
        multiple = 4 if has_attention else 2
        width = fit_width("lstm", fields, parameters=self.parameters, symbols=20, multiple=multiple)
        return {
            **fields,
            "model.embedding_size": width,
            "model.hidden_size": width,
            "data.loader": "crops",
            "data.sequence_length": SEQUENCE_LENGTH,
            "data.batch_size": BATCH_SIZE,
            "split.test_fraction": 0.1,
            "evaluation.context": SEQUENCE_LENGTH,
            "evaluation.max_characters": 20_000,
            "train.epochs": 1_000,
        }


def arm_name(task: str, name: str) -> str:
    """Return the name of the arm of a skill and a model."""
    return f"{task}-{name.replace(' ', '-')}"


PRESETS: Mapping[str, Preset] = {
    "minutes": Preset(
        {"recall": "pairs=4", "counting": ""},
        ("lstm", "minlstm", "attention"),
        27_000,
        200_000,
        Effort(2, 307_200, (1,), scores=4),
    ),
    "full": Preset(
        # Whole episodes fit into a training sequence, but for those of dyck and induction, which
        # have no largest length: 17 and 12 % are longer, and 52 and 41 % of the answers do not
        # count in windows.
        {**dict.fromkeys(TASKS, ""), "induction": "length=60"},
        tuple(LAYERS),
        100_000,
        1_000_000,
        Effort(4, 1_024_000, (1, 2, 3), scores=4),
    ),
}
