"""The cases of the contract of every model; its properties are in `charlm_jax.models.testing`."""

import functools
from typing import Any

import pytest

from charlm_jax.config.schema import ModelConfig
from charlm_jax.models.mixers import MIXERS
from charlm_jax.models.testing import BARE, BLOCK, FEW, MANY, MAX_LENGTH, Subject
from tests.conftest import make_model_config, quick_jit

ATTENTION, SELF_ATTENTION = ("attention",), ("self_attention",)

# Every mixer, whatever it is, in a bare stack and in a block.
CASES: dict[str, ModelConfig] = {}
for _name in MIXERS:
    CASES[f"{_name}-bare"] = make_model_config(_name, **BARE)
    CASES[f"{_name}-pre_norm-bfloat16"] = make_model_config(_name, **BLOCK, precision="bfloat16")

# For these, another combination of block and precision is checked in `make test-all`.
OTHERS = [
    *(
        (name, {**BARE, "precision": "bfloat16", "scan": "associative"})
        for name in ("minlstm", "gated_deltanet", "mlstm")
    ),
    *((name, {**BLOCK, "scan": "associative"}) for name in ("rglru", "mamba2", "slstm")),
]

# Further options, covered in pairs rather than in full combination.
# fmt: off
_FURTHER: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (ATTENTION, BLOCK),
    (ATTENTION, BLOCK | {"position": "learned", "heads": 1, "norm": "layer_norm", "mlp": "relu2"}),
    (ATTENTION, BLOCK | {"position": "sinusoidal", "heads": 4, "block": "post_norm"}),
    (ATTENTION, BLOCK | {"position": "rotary", "heads": 4, "kv_heads": 2, "qk_norm": True,
                         "mlp": "swiglu"}),
    (ATTENTION, BLOCK | {"position": "alibi", "heads": 4, "kv_heads": 2, "mlp": "none"}),
    (ATTENTION, BLOCK | {"position": "rotary", "kv_heads": 1, "precision": "bfloat16",
                         "mlp": "swiglu"}),
    (ATTENTION * 2, BARE | {"position": "rotary", "window": 3, "init": "flax"}),
    (ATTENTION * 2, BLOCK | {"tied_embedding": True, "zero_init": True, "init": "gpt2"}),
    (SELF_ATTENTION, BLOCK | {"position": "rotary", "norm": "layer_norm"}),
    (SELF_ATTENTION, BARE | {"position": "learned", "max_length": MAX_LENGTH, "window": 4}),
    (("mingru",), BARE | {"scan": "sequential"}),
    (("mingru",), BLOCK | {"scan": "associative", "init": "gpt2"}),
    (("gru",), BARE | {"embedding_size": 8, "position": "sinusoidal", "tied_embedding": True}),
    (("lstm",), BLOCK | {"block": "post_norm", "norm": "layer_norm", "init": "flax"}),
    (("lstm",), BARE | {"mogrifier_rounds": 3}),
    (("lstm",), BLOCK | {"mogrifier_rounds": 2, "precision": "bfloat16"}),
    (("lstm",), BARE | {"cell_norm": True}),
    (("gru",), BARE | {"cell_norm": True}),
    (("lstm", "gru"), BLOCK | {"cell_norm": True, "precision": "bfloat16"}),
    (("lstm", "attention"), BLOCK | {"position": "alibi"}),
    (("mingru", "attention", "gru"), BARE),
]
# fmt: on
for _layers, _changes in _FURTHER:
    _common = BLOCK if "block" in _changes else BARE
    _own = [f"{k}={v}" for k, v in _changes.items() if k == "block" or _common.get(k) != v]
    CASES["-".join(["+".join(_layers), *_own])] = make_model_config(*_layers, **_changes)

IS_BARE = {name: config.block == "bare" for name, config in CASES.items()}
# Every mixer in a bare stack without options: only these are repeated, as that takes time.
ALONE = [f"{name}-bare" for name in MIXERS]


def _case(name: str, *others: int) -> Any:
    """A case of a test, repeated as users compile it if a mixer is alone."""
    return pytest.param(name, *others, marks=[pytest.mark.optimised] * (name in ALONE))


EVERY = [_case(name) for name in CASES]
# Mixers alone are tried with few positions kept and with many, the others with one of the two.
CARRYING = [
    _case(name, context)
    for i, name in enumerate(CASES)
    for context in ([FEW, MANY] if name in ALONE else [(FEW, MANY)[i // 2 % 2]])
]
READING = [*(_case(name, 0) for name in CASES), *CARRYING]


def make_subject(config: ModelConfig) -> Subject:
    """A subject whose functions are compiled quickly."""
    return Subject(config, jit=quick_jit)


share = functools.cache(make_subject)  # what is compiled for one test serves the next


def subject_of(name: str) -> Subject:
    return share(CASES[name])
