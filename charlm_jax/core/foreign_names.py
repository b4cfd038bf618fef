"""Other programs' names for our fields, flags and commands, to suggest ours.

From nanoGPT, char-rnn, torch-rnn, Keras, textgenrnn, gpt-2-simple and Hugging Face's transformers.
"""

from collections.abc import Callable, Collection, Mapping

# Fields of a config.
FIELDS: Mapping[str, str] = {
    "beta_1": "optimizer.beta1",
    "beta_2": "optimizer.beta2",
    "block_size": "data.sequence_length",
    "chunk_len": "data.sequence_length",
    "clipnorm": "optimizer.clip_norm",
    "context_length": "data.sequence_length",
    "d_model": "model.hidden_size",
    "data_dir": "data.corpus",
    "dataset": "data.corpus",
    "decay_lr": "optimizer.schedule",
    "decay_rate": "optimizer.beta2",
    "dim_embeddings": "model.embedding_size",
    "dim_feedforward": "model.mlp_ratio",
    "dtype": "model.precision",
    "embedding_dim": "model.embedding_size",
    "eval_interval": "train.evaluate_every_steps",
    "eval_iters": "evaluation.max_characters",
    "eval_steps": "train.evaluate_every_steps",
    "eval_val_every": "train.evaluate_every_steps",
    "gen_epochs": "train.sample_every_steps",
    "grad_clip": "optimizer.clip_norm",
    "gradient_accumulation_steps": "train.microbatches",
    "hidden_dim": "model.hidden_size",
    "input_file": "data.corpus",
    "input_h5": "data.corpus",
    "input_txt": "data.corpus",
    "log_interval": "train.log_every_steps",
    "logging_steps": "train.log_every_steps",
    "lr": "optimizer.learning_rate",
    "lr_decay_every": "optimizer.schedule",
    "lr_decay_factor": "optimizer.schedule",
    "lr_scheduler_type": "optimizer.schedule",
    "max_epochs": "train.epochs",
    "max_grad_norm": "optimizer.clip_norm",
    "max_iters": "train.max_steps",
    "max_seq_len": "data.sequence_length",
    "maxlen": "data.sequence_length",
    "min_lr": "optimizer.final_learning_rate",
    "model_type": "model.layers",
    "n_embd": "model.embedding_size and model.hidden_size",
    "n_head": "model.heads",
    "n_iters": "train.max_steps",
    "n_layer": "model.layers",
    "nhead": "model.heads",
    "num_epochs": "train.epochs",
    "num_heads": "model.heads",
    "num_layers": "model.layers",
    "num_steps": "train.max_steps",
    "num_train_epochs": "train.epochs",
    "output_dim": "model.embedding_size",
    "per_device_train_batch_size": "data.batch_size",
    "print_every": "train.log_every_steps",
    "recurrent_dropout": "model.weight_dropout",
    "rnn_layers": "model.layers",
    "rnn_size": "model.hidden_size",
    "sample_every": "train.sample_every_steps",
    "save_every": "train.evaluate_every_steps",
    "seq_len": "data.sequence_length",
    "seq_length": "data.sequence_length",
    "stateful": "data.loader",
    "steps": "train.max_steps",
    "test_frac": "split.test_fraction",
    "train_frac": "split.valid_fraction",
    "train_size": "split.valid_fraction",
    "units": "model.hidden_size",
    "val_frac": "split.valid_fraction",
    "validation_split": "split.valid_fraction",
    "warmup_iters": "optimizer.warmup_steps",
    "wordvec_size": "model.embedding_size",
}

# Flags of commands.
FLAGS: Mapping[str, str] = {
    "checkpoint_dir": "--workdir",
    "ckpt": "--checkpoint",
    "device": "JAX_PLATFORMS",
    "do_sample": "--scale",
    "eos": "--stop",
    "gpuid": "JAX_PLATFORMS",
    "input": "--prompt",
    "length": "--chars",
    "max_gen_length": "--chars",
    "max_length": "--chars",
    "max_new_tokens": "--chars",
    "n_chars": "--chars",
    "new_model": "--fresh",
    "nsamples": "--num",
    "num_chars": "--chars",
    "num_generate": "--chars",
    "num_return_sequences": "--num",
    "num_samples": "--num",
    "out_dir": "--workdir",
    "output_dir": "--workdir",
    "prefix": "--prompt",
    "prime": "--prompt",
    "primetext": "--prompt",
    "restore_from": "--init_from",
    "run_name": "--workdir",
    "sample": "--scale",
    "save_dir": "--workdir",
    "seed_text": "--prompt",
    "start": "--prompt",
    "start_string": "--prompt",
    "start_text": "--prompt",
    "stop_token": "--stop",
    "temp": "--scale",
    "temperature": "--scale",
    "truncate": "--stop",
}

# Flags of `charlm train`, and those of `charlm sample` that it lacks.
_OF_TRAIN = frozenset({"--fresh", "--init_from", "--workdir", "JAX_PLATFORMS"})
_OF_SAMPLE = frozenset({"--checkpoint", "--chars", "--num", "--prompt", "--scale", "--stop"})

# Commands of other programs.
COMMANDS: Mapping[str, str] = {
    "eval": "evaluate",
    "generate": "sample",
    "info": "summary",
    "list": "runs",
    "ls": "runs",
    "plot": "report",
    "test": "evaluate",
}

# Remarks on the names above.
NOTES: Mapping[str, str] = {
    "decay_rate": "of Adam's second moment",
    "device": "an environment variable: cpu, cuda or tpu",
    "dim_feedforward": "a multiple of config.model.hidden_size",
    "do_sample": "inf is greedy",
    "eval_iters": "a number of characters, not of batches",
    "gpuid": "an environment variable: cpu, cuda or tpu",
    "gradient_accumulation_steps": "pieces of data.batch_size",
    "model_type": "such as lstm,lstm",
    "n_layer": "a name for each layer, such as lstm,lstm",
    "num_layers": "a name for each layer, such as lstm,lstm",
    "recurrent_dropout": "of the weights, not of the states",
    "rnn_layers": "a name for each layer, such as lstm,lstm",
    "sample": "inf is greedy",
    "stateful": "streams carries the state",
    "temp": "1 / temperature",
    "temperature": "1 / temperature",
    "train_frac": "1 minus the training part",
    "train_size": "1 minus the training part",
}

# Names without a counterpart, and the reason.
NONE: Mapping[str, str] = {
    "bias": "the layers have the biases of the textbook's, blocks have none",
    "compile": "everything is compiled",
    "loss": "it is the cross-entropy",
    "lr_decay_iters": "the schedule ends with the run",
    "max_words": "the vocabulary is the text's characters",
    "num_beams": "text is sampled, without a beam search",
    "repetition_penalty": "no character is penalised",
    "rnn_bidirectional": "a model that predicts the next character reads one way",
    "rnn_type": "it is the name in model.layers",
    "steps_per_epoch": "it follows from text, batch_size and sequence_length",
    "vocab_size": "the vocabulary is the text's characters",
    "word_level": "models are of characters or bytes",
}


def suggest_field(name: str, arguments: Collection[str] = _OF_TRAIN) -> str | None:
    """Return the hint for a config field with another program's name; None for other names.

    Args:
      name: unknown name, with or without dashes and section.
      arguments: flags that can be suggested in place of a field.

    >>> suggest_field("block_size"), suggest_field("compile"), suggest_field("xyzzy")
    ('did you mean config.data.sequence_length?', 'there is none: everything is compiled', None)
    >>> suggest_field("train.temperature")
    'it is a setting of charlm sample: --scale (1 / temperature)'
    """
    name = _plain(name)
    if name in FIELDS:
        ours = " and ".join(f"config.{field}" for field in FIELDS[name].split(" and "))
        return _did_you_mean(name, ours)
    if name in NONE:
        return f"there is none: {NONE[name]}"
    flag = FLAGS.get(name, "")
    if flag in arguments:
        return _did_you_mean(name, flag.removeprefix("--"))
    if flag in _OF_SAMPLE:
        return f"it is a setting of charlm sample: {_with_note(name, flag)}"
    return None


def suggest_flag(
    name: str, flags: Collection[str], spell: Callable[[str], str] = lambda flag: flag
) -> str | None:
    """Return the hint for a flag or parameter with another program's name; None for other names.

    Args:
      name: unknown name, with or without dashes.
      flags: flags that can be suggested.
      spell: function that returns a flag as the reader would type it.

    >>> suggest_flag("--temperature", ["--scale"])
    'did you mean --scale (1 / temperature)?'
    """
    name = _plain(name)
    ours = FLAGS.get(name)
    if ours is not None and ours in (*flags, "JAX_PLATFORMS"):
        return _did_you_mean(name, spell(ours))
    return f"there is none: {NONE[name]}" if name in NONE else None


def _plain(name: str) -> str:
    """Return a name without dashes before it and without its section."""
    return name.lstrip("-").rpartition(".")[2].replace("-", "_").lower()


def _did_you_mean(name: str, ours: str) -> str:
    return f"did you mean {_with_note(name, ours)}?"


def _with_note(name: str, ours: str) -> str:
    return f"{ours} ({NOTES[name]})" if name in NOTES else ours
