"""What a field of the config does not allow."""

from collections.abc import Mapping, Sequence

# Field -> what it does not allow, and what the answer says is allowed. None: any text is taken.
Refused = tuple[Sequence[str], str]
COUNTS = ("-1", "2147483648", str(10**30))
NOT_POSITIVE = ("-1", "0", "nan", "inf", "-inf", "1e400")
FIELDS: Mapping[str, Refused | None] = {
    "seed": (("-1", "4294967296", str(10**30)), "in [0, 2**32)"),
    "data.corpus": (("",), "a corpus name or a path"),
    "data.encoding": None,
    "data.loader": (("", "x", "Chunks"), "one of chunks, crops, streams"),
    "data.sequence_length": ((*COUNTS, "0"), "in [1, 2**31)"),
    "data.batch_size": ((*COUNTS, "0"), "in [1, 2**31)"),
    "data.reset_probability": (("-0.1", "1.1", "nan", "inf", "1e400"), "in [0, 1]"),
    "split.kind": (("", "x", "None"), "one of tail, interleaved, none"),
    "split.valid_fraction": (
        ("-0.1", "0", "1", "nan", "inf", "1e400"),
        "between 0 and 1, exclusive",
    ),
    "split.test_fraction": (("-0.1", "0.9", "1", "nan", "inf", "1e400"), "at least 0, and below 1"),
    "split.blocks": ((*COUNTS, "0"), "in [1, "),
    "split.guard": (COUNTS, "in [0, 2**31)"),
    "split.vocabulary": (("", "x", "All"), "one of all, train"),
    "model.layers": (("", ",", "()"), "has 0 layers: it must have 1 to 64"),
    "model.embedding_size": ((*COUNTS, "0"), "in [1, 2**"),
    "model.hidden_size": ((*COUNTS, "0"), "in [1, 2**"),
    "model.block": (("", "x", "Bare"), "one of bare, pre_norm, post_norm"),
    "model.norm": (("", "x", "RMSNorm"), "one of layer_norm, rms_norm"),
    "model.mlp": (("", "x", "gelu"), "must be none"),
    "model.mlp_ratio": ((*NOT_POSITIVE, "65"), "above 0 and at most 64"),
    "model.position": (("", "x", "Rotary"), "one of none, learned, sinusoidal, rotary, alibi"),
    "model.max_length": ((*COUNTS, "0"), "in [1, 2**20]"),
    "model.heads": ((*COUNTS, "0"), "in [1, 2**20]"),
    "model.kv_heads": (COUNTS, "in [0, 2**20]"),
    "model.qk_norm": (("", "1", "yes", "None"), "write true or false"),
    "model.window": (COUNTS, "in [0, 2**31)"),
    "model.scan": (("", "x", "Auto"), "one of auto, sequential, associative"),
    "model.tied_embedding": (("", "1", "yes", "None"), "write true or false"),
    "model.dropout": (("-0.1", "1", "nan", "inf", "1e400"), "in [0, 1)"),
    "model.init": (("", "x", "Keras"), "one of keras, flax, gpt2"),
    "model.zero_init": (("", "1", "yes", "None"), "write true or false"),
    "model.precision": (("", "x", "float16"), "one of float32, bfloat16"),
    "optimizer.learning_rate": ((*NOT_POSITIVE, "1e-60"), "in [1.2e-38, 1.7e+38]"),
    "optimizer.schedule": (("", "x", "Cosine"), "one of constant, cosine, wsd"),
    "optimizer.warmup_steps": (COUNTS, "in [0, 2**31)"),
    "optimizer.final_learning_rate": (("-1", "nan", "inf", "1e400"), "in [0, 1.7e+38]"),
    "optimizer.beta1": (("-0.1", "1", "nan", "inf", "1e400"), "in [0, 1)"),
    "optimizer.beta2": (("-0.1", "1", "nan", "inf", "1e400"), "in [0, 1)"),
    "optimizer.epsilon": ((*NOT_POSITIVE, "1e-60"), "in [1.2e-38, 1.7e+38]"),
    "optimizer.epsilon_hat": (("", "1", "yes", "None"), "write true or false"),
    "optimizer.clip_norm": (("-1", "nan", "inf", "1e400"), "in [0, 1.7e+38]"),
    "optimizer.weight_decay": (("-1", "nan", "inf", "1e400"), "in [0, 1.7e+38]"),
    "optimizer.decay_fraction": (("-0.1", "1.1", "nan", "inf", "1e400"), "in [0, 1]"),
    "optimizer.average_decay": (("-0.1", "1", "nan", "inf", "1e400"), "in [0, 1)"),
    "train.epochs": ((*COUNTS, "0"), "in [1, 2**31)"),
    "train.max_steps": (COUNTS, "in [0, 2**31)"),
    "train.steps_per_dispatch": ((*COUNTS, "0"), "in [1, 2**31)"),
    "train.segment_length": (COUNTS, "in [0, 2**31)"),
    "train.log_every_steps": ((*COUNTS, "0"), "in [1, 2**31)"),
    "train.evaluate_every_steps": (COUNTS, "in [0, 2**31)"),
    "train.patience": (COUNTS, "in [0, 2**31)"),
    "train.init_from": None,
    "evaluation.context": (COUNTS, "in [0, 2**31)"),
    "evaluation.batch_size": ((*COUNTS, "0"), "in [1, 2**31)"),
}
NO_INTEGERS = ("", "x", "1.5", "1e3", "nan", "inf", "true", "None", "0x10", "[1]", "9" * 5000)
NO_NUMBERS = ("", "x", "true", "None", "0x10", "[1]", "1,5", "1/2")
