"""Every value of a run, with its unit and meaning. Variants import this file and edit.

Not a config to train: it is the list of what can be said.
"""

from collections.abc import Mapping
from typing import TypeVar

from ml_collections import ConfigDict

Choice = TypeVar("Choice")


def pick(name: str, choices: Mapping[str, Choice]) -> Choice:
    """What a config has for the argument behind its name, as in `transformer:1.6M`."""
    if name not in choices:
        raise ValueError(f"there is no {name!r}: name one of {', '.join(choices)}")
    return choices[name]


def get_config() -> ConfigDict:
    config = ConfigDict()

    # Root of all randomness in training: initial weights, order of batches, dropout.
    config.seed = 1

    config.data = ConfigDict()
    # A registered name (`charlm corpora` lists them), a text file, a folder, or a glob.
    config.data.corpus = "shakespeare"
    # How the bytes of files become characters; decoding is strict.
    config.data.encoding = "utf-8"
    # chunks: an epoch is every non-overlapping piece of sequence_length + 1 characters once, in
    # random order. crops: pieces that start anywhere, as many as read the text about once.
    # streams: batch_size readers go through the text piece by piece, each carrying its state on
    # (truncated backpropagation through time).
    config.data.loader = "chunks"
    # Characters that the model reads in one training sequence (T).
    config.data.sequence_length = 40
    # Sequences in one step (B).
    config.data.batch_size = 64
    # Probability that a reader's state is reset before a batch, under streams; it shows the model
    # how a text begins.
    config.data.reset_probability = 0.0

    config.split = ConfigDict()
    # tail: train, then valid, then test, in the text's order. interleaved: held-out stretches in
    # the middle of each of `blocks` equal sections of the text. none: all of it is trained on, and
    # no held-out figure exists.
    config.split.kind = "tail"
    # Share of the characters that is held out and watched in training, between 0 and 1.
    config.split.valid_fraction = 0.1
    # Share that is held out and never looked at in training; 0 is no such part.
    config.split.test_fraction = 0.0
    # Sections, under interleaved.
    config.split.blocks = 10
    # Characters around every held-out stretch that belong to no part, under interleaved.
    config.split.guard = 500
    # Symbols come from all of the text, or from the part named train alone; characters elsewhere
    # that it lacks are then an error.
    config.split.vocabulary = "all"

    config.model = ConfigDict()
    # From the embedding upwards: any of lstm, gru, rnn, mingru, attention (queries, keys and
    # values), self_attention (without parameters).
    config.model.layers = ("lstm",)
    # Width of a symbol's vector.
    config.model.embedding_size = 256
    # Width of every layer's output.
    config.model.hidden_size = 512
    # What surrounds a layer. bare: nothing, as in the textbook. pre_norm: its normalised input goes
    # through it and is added to the input, and so for an MLP after it; a last norm follows the
    # stack. post_norm: the sum is normalised, as in the first transformers.
    config.model.block = "bare"
    # layer_norm (without a bias) or rms_norm, in blocks that have one.
    config.model.norm = "rms_norm"
    # none, gelu, relu2 (squared ReLU) or swiglu.
    config.model.mlp = "none"
    # Hidden units of the MLP over hidden_size. swiglu has three matrices and not two: 8/3 of it is
    # as many parameters as 4 of the others.
    config.model.mlp_ratio = 4.0
    # How attention is told where a character stands. none. learned: a vector for every place is
    # added to the embedding, and there are max_length places. sinusoidal: the same with fixed
    # vectors. rotary: queries and keys are turned by an angle that grows with the place. alibi:
    # scores fall in proportion to the distance.
    config.model.position = "none"
    config.model.max_length = 1024
    # Queries; each head has hidden_size / heads of the width.
    config.model.heads = 1
    # Heads of keys and values, each shared by as many heads of queries; 0 is as many as heads.
    config.model.kv_heads = 0
    # Normalise every query and key before their product.
    config.model.qk_norm = False
    # Positions that attention sees, its own included; 0 is all of them.
    config.model.window = 0
    # mingru: sequential, associative (more work, in parallel), or auto: sequential on a CPU.
    config.model.scan = "auto"
    # The output layer is the embedding, transposed, without a bias.
    config.model.tied_embedding = False
    # Share of activations zeroed in training: on every layer's input and before the output where
    # blocks are bare, otherwise on the embedding and on all that is added to it.
    config.model.dropout = 0.0
    # keras: joint orthogonal and Glorot-uniform kernels, forget-gate bias 1, embedding uniform in
    # +-0.05. flax: per-gate kernels, LeCun-normal inputs, zero biases. gpt2: normal with standard
    # deviation 0.02, less by the root of 2 x layers for what is added to the stream.
    config.model.init = "keras"
    # Start the output projections of attention and MLPs in blocks from zeros: they then add nothing
    # to the stream at first.
    config.model.zero_init = False
    # float32, or bfloat16: operands of matrix products are rounded to that, forwards and backwards;
    # sums, weights and all else are float32.
    config.model.precision = "float32"

    config.optimizer = ConfigDict()
    # Adam, or AdamW if weight_decay is above 0.
    # The constant rate, or the peak of the schedule.
    config.optimizer.learning_rate = 1e-3
    # constant, cosine (from the peak to final_learning_rate over the run), or wsd (warm-up, stable,
    # decay: constant, and over the last decay_fraction of the run straight down to
    # final_learning_rate). All start with a linear rise over warmup_steps.
    config.optimizer.schedule = "constant"
    config.optimizer.warmup_steps = 0
    config.optimizer.final_learning_rate = 0.0
    config.optimizer.decay_fraction = 0.2
    config.optimizer.beta1 = 0.9
    config.optimizer.beta2 = 0.999
    # Keeps Adam's quotient finite. Keras has 1e-7, optax and PyTorch 1e-8.
    config.optimizer.epsilon = 1e-8
    # Add it to the root of the uncorrected second moment, as Keras does; to that of the corrected
    # one, as optax and PyTorch do, if false.
    config.optimizer.epsilon_hat = False
    # Largest global norm of the gradient; 0 does not clip.
    config.optimizer.clip_norm = 0.0
    # Every step takes learning_rate x weight_decay of the kernels away (AdamW); embeddings, biases
    # and norms keep theirs.
    config.optimizer.weight_decay = 0.0
    # Also keep an exponential moving average of the weights, which forgets 1 - average_decay of
    # itself a step. It is scored beside the raw ones, and is what best and patience mean and what
    # sample takes. 0 keeps none.
    config.optimizer.average_decay = 0.0

    config.train = ConfigDict()
    # Passes over the training text.
    config.train.epochs = 20
    # Stop after so many steps even if epochs are left; 0 is no limit.
    config.train.max_steps = 0
    # Most steps that run on the device between two looks of the host.
    config.train.steps_per_dispatch = 20
    # Characters in each segment of a sequence that is computed twice, so that the memory of a step
    # does not grow with the sequence; 0 computes all of it once. Only for recurrent layers.
    config.train.segment_length = 0
    # Steps averaged in one `step` row of metrics.jsonl.
    config.train.log_every_steps = 20
    # Held-out text is scored and a checkpoint saved every so many steps; 0 is at the end of every
    # epoch.
    config.train.evaluate_every_steps = 0
    # Stop after so many scores of held-out text without a new best; 0 never does.
    config.train.patience = 0
    # Folder of a run whose best weights to start from; empty starts afresh. (--init_from=RUN)
    config.train.init_from = ""

    config.evaluation = ConfigDict()
    # Characters per non-overlapping window; 0 is data.sequence_length.
    config.evaluation.context = 0
    # Windows scored at once; it changes the speed, not the figure.
    config.evaluation.batch_size = 256

    return config
