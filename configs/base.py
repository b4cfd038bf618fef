"""All config fields of a run, with unit and meaning. Other configs import this file and edit it.

Not a config to train: it is the reference of what can be configured.
"""

from collections.abc import Mapping
from typing import TypeVar

from ml_collections import ConfigDict

from charlm_jax.core.errors import CharlmError

Choice = TypeVar("Choice")


def pick(name: str, choices: Mapping[str, Choice]) -> Choice:
    """Return the entry for a config's argument, such as `1.6M` in `transformer:1.6M`."""
    if name not in choices:
        raise CharlmError(
            f"unknown name {name!r} after the colon of --config: it must be one of "
            f"{', '.join(choices)}"
        )
    return choices[name]


def get_config() -> ConfigDict:
    config = ConfigDict()

    # Seed of all randomness in training: initial weights, order of batches, dropout.
    config.seed = 1

    config.data = ConfigDict()
    # A registered name (`charlm corpora` lists them), a text file, a folder, or a glob.
    config.data.corpus = "shakespeare"
    # characters: symbols are Unicode code points. bytes: symbols are the bytes of the files, which
    # are not changed in any way; losses are then per byte, and lengths are numbers of bytes.
    config.data.unit = "characters"
    # Encoding of text files; decoding is strict.
    config.data.encoding = "utf-8"
    # chunks: an epoch is every non-overlapping piece of sequence_length + 1 characters once, in
    # random order; the first character of a piece is never learnt. crops: pieces that start
    # anywhere, enough of them to read the text about once. streams: batch_size readers go through
    # the text piece by piece and carry their state (truncated backpropagation through time).
    config.data.loader = "chunks"
    # Characters per training sequence (T).
    config.data.sequence_length = 40
    # Sequences per step (B).
    config.data.batch_size = 64
    # Other sequence lengths in the first steps: 10:500,40:500 is 500 steps with sequences of 10
    # characters, then 500 of 40, then sequence_length to the end; empty for none. A step has
    # batch_size x sequence_length characters throughout, which each length must divide. Epochs,
    # their rows and evaluations are those of sequence_length. A length that returns resumes its
    # order of the text; streams start from the initial state when the length changes. In a typed
    # sweep, a schedule with a comma is in quotes.
    config.data.length_schedule = ""
    # Probability that a reader's state is reset before a batch, under streams; the model thereby
    # learns to start a text.
    config.data.reset_probability = 0.0

    config.split = ConfigDict()
    # tail: train, then valid, then test, in text order. interleaved: held-out stretches in the
    # middle of each of `blocks` equal sections of the text. files: a file for each part, such as
    # train.txt, valid.txt and test.txt in the folder of the corpus. none: train on the whole text,
    # without a held-out loss.
    config.split.kind = "tail"
    # Fraction of the characters held out and evaluated during training, between 0 and 1.
    config.split.valid_fraction = 0.1
    # Fraction held out and never evaluated during training; 0 for no such part.
    config.split.test_fraction = 0.0
    # Numbers of characters of train, valid and test instead of fractions, under tail: 90M/5M/5M, or
    # train and valid alone. They add up to the text; one of them may be rest, as in rest/50K/50K.
    # Empty for fractions.
    config.split.counts = ""
    # Number of sections, under interleaved.
    config.split.blocks = 10
    # Characters around every held-out stretch that belong to no part, under interleaved.
    config.split.guard = 500
    # exact: fractions are the decimals that they are written as, and numbers of characters are
    # rounded down. float: the same in floating point, as in earlier versions, where 1 - 0.05 - 0.05
    # of 100,000,000 characters are 89,999,999.
    config.split.rounding = "exact"
    # all: symbols of the whole text. train: symbols of the training part only; other characters
    # elsewhere are then an error.
    config.split.vocabulary = "all"

    config.model = ConfigDict()
    # From the embedding up: any of lstm, gru, rnn, mingru, minlstm, rglru, gated_deltanet,
    # mamba2, mlstm, slstm, attention (queries, keys and values), self_attention (without
    # parameters); or module:Class, a class of a module of one's own.
    config.model.layers = ("lstm",)
    # Width of a symbol's vector.
    config.model.embedding_size = 256
    # Width of every layer's output but that of self_attention, which is as wide as its input.
    config.model.hidden_size = 512
    # Block around each layer. bare: none, as in the textbook. pre_norm: x + layer(norm(x)), then
    # the same for an MLP; a final norm follows the stack. post_norm: norm(x + layer(x)), as in the
    # original transformer.
    config.model.block = "bare"
    # layer_norm (without a bias) or rms_norm, in blocks that have one.
    config.model.norm = "rms_norm"
    # none, gelu, relu2 (squared ReLU) or swiglu.
    config.model.mlp = "none"
    # Hidden units of the MLP divided by hidden_size. swiglu has three matrices instead of two: a
    # ratio of 8/3 gives as many parameters as 4 with the others.
    config.model.mlp_ratio = 4.0
    # Position encoding of attention. none. learned: a vector for each of max_length positions is
    # added to the embedding. sinusoidal: the same with fixed vectors. rotary: queries and keys are
    # rotated by an angle that grows with the position. alibi: scores fall in proportion to the
    # distance.
    config.model.position = "none"
    # Number of learned positions, the longest text that such a model can read.
    config.model.max_length = 1024
    # Query heads of attention, or memories of gated_deltanet and mlstm, each of width hidden_size /
    # heads (mlstm: of at least 2). mamba2: states, whose values are twice as wide. slstm: diagonal
    # blocks of the recurrent matrix; rglru: of the gates' matrices.
    config.model.heads = 1
    # Key and value heads, each shared by heads / kv_heads query heads; 0 means as many as heads.
    config.model.kv_heads = 0
    # Normalize every query and key before their product.
    config.model.qk_norm = False
    # Positions visible to attention, its own included; 0 means all.
    config.model.window = 0
    # Keys of mamba2, the paper's N: numbers that a head's state holds for each of its values.
    config.model.state_size = 64
    # Positions that a short convolution of rglru, gated_deltanet, mamba2 or mlstm reads, its own
    # included; 0 for no convolution.
    config.model.conv_width = 4
    # Positions that gated_deltanet, mamba2 and mlstm compute at once by matrix products; 1 for one
    # at a time. It changes the speed, not the result. A step of training needs memory for
    # sequence_length x chunk_size numbers in each head.
    config.model.chunk_size = 32
    # lstm: times that input and state modulate each other before a step (arXiv 1909.01792); 0 for
    # the plain LSTM.
    config.model.mogrifier_rounds = 0
    # lstm and gru: normalize the gates' arguments, and an LSTM's cell where it is read (layer
    # normalization, arXiv 1607.06450). Not with mogrifier_rounds.
    config.model.cell_norm = False
    # mingru, minlstm and rglru: sequential, associative (more work, in parallel), or auto:
    # sequential on a CPU.
    config.model.scan = "auto"
    # Use the transposed embedding as the output layer, without a bias.
    config.model.tied_embedding = False
    # Fraction of activations zeroed in training: on every layer's input and before the output with
    # bare blocks, otherwise on the embedding and on all that is added to it.
    config.model.dropout = 0.0
    # position: dropout has a new mask at every position. sequence: one mask for all positions of
    # a training sequence, or variational dropout (arXiv 1512.05287).
    config.model.dropout_mask = "position"
    # Fraction of the weights between successive hidden states that are zeroed in a training step
    # (DropConnect, arXiv 1708.02182): of lstm, gru, rnn, slstm, or any weights of the name
    # recurrent_kernel.
    config.model.weight_dropout = 0.0
    # Fraction of the symbols whose vectors are zeroed in a training step, wherever they occur
    # (arXiv 1708.02182). With tied_embedding the output layer keeps them.
    config.model.embedding_dropout = 0.0
    # keras: joint orthogonal and Glorot-uniform kernels, forget-gate bias 1, embedding uniform in
    # +-0.05. flax: per-gate kernels, LeCun-normal inputs, zero biases. gpt2: normal with standard
    # deviation 0.02, divided by sqrt(2 x layers) for what is added to the stream.
    config.model.init = "keras"
    # In blocks other than bare, initialize the output projections of MLPs and of attention, rglru,
    # gated_deltanet, mamba2 and mlstm to zero, so that they add nothing to the stream at first.
    config.model.zero_init = False
    # float32, or bfloat16: operands of matrix products are rounded to bfloat16, forwards and
    # backwards; sums, weights and everything else are float32. On recent GPUs JAX may round the
    # operands of float32 products too, to TensorFloat-32.
    config.model.precision = "float32"

    config.optimizer = ConfigDict()
    # adam (AdamW if weight_decay is above 0). muon: matrices of layers move by their momentum with
    # equal singular values, all other weights by Adam. schedule_free: AdamW with an average in
    # place of a decay of the learning rate; the average is scored and sampled from.
    config.optimizer.rule = "adam"
    # Constant learning rate, or peak of the schedule.
    config.optimizer.learning_rate = 1e-3
    # constant, cosine (from the peak to final_learning_rate over the run), or wsd (warm-up, stable,
    # decay: constant, then linear to final_learning_rate over the last decay_fraction of the run).
    # All start with a linear warm-up over warmup_steps.
    config.optimizer.schedule = "constant"
    # Steps of linear warm-up.
    config.optimizer.warmup_steps = 0
    # Learning rate at the end of cosine and wsd.
    config.optimizer.final_learning_rate = 0.0
    # Share of the run in which wsd decays.
    config.optimizer.decay_fraction = 0.2
    # Adam's decay of the mean of gradients; under schedule_free, the weight of the average.
    config.optimizer.beta1 = 0.9
    # Adam's decay of the mean of squared gradients.
    config.optimizer.beta2 = 0.999
    # Keeps Adam's quotient finite. Keras uses 1e-7, optax and PyTorch 1e-8.
    config.optimizer.epsilon = 1e-8
    # Add epsilon to the root of the uncorrected second moment, as Keras does; if false, to that of
    # the corrected one, as optax and PyTorch do.
    config.optimizer.epsilon_hat = False
    # Maximum global norm of the gradient; 0 disables clipping.
    config.optimizer.clip_norm = 0.0
    # Every step shrinks the kernels by learning_rate x weight_decay of their values (AdamW);
    # embeddings, biases and norms are not decayed.
    config.optimizer.weight_decay = 0.0
    # Also keep an exponential moving average of the weights, with this decay per step. It is scored
    # in addition to the raw weights, and is used by best, patience and sample. 0 keeps none.
    config.optimizer.average_decay = 0.0
    # Weight of the mean square of the last layer's outputs, after dropout, in what training
    # minimizes (activation regularization, arXiv 1708.01009); losses are reported without it. Only
    # for bare blocks.
    config.optimizer.activation_penalty = 0.0
    # The same for the change of these outputs from one position to the next, before dropout
    # (temporal activation regularization).
    config.optimizer.temporal_penalty = 0.0

    config.train = ConfigDict()
    # Passes over the training text.
    config.train.epochs = 20
    # Maximum number of steps, even if epochs are left; 0 means no limit.
    config.train.max_steps = 0
    # Maximum number of steps that run on the device before control returns to the host.
    config.train.steps_per_dispatch = 20
    # Devices, such as GPUs, among which the sequences of a batch are divided, in all processes of
    # the run; 0 means all. Times microbatches it divides batch_size. The update is that of one
    # device, up to rounding.
    config.train.devices = 1
    # Whether each of several devices holds only a part of the weights, of the optimizer's state and
    # of their average (FSDP), for models that are too large for one. They are gathered to be used.
    config.train.shard_params = False
    # Pieces of a batch, or of a device's share of it, that are computed one by one, so that
    # a step needs memory for the activations of one of them. The update is that of the whole batch,
    # up to rounding.
    config.train.microbatches = 1
    # Characters per rematerialized segment of a sequence: segments are computed twice, so that the
    # memory of a step does not grow with the sequence. 0 disables it. Only for recurrent layers.
    config.train.segment_length = 0
    # Steps averaged in one `step` row of metrics.jsonl.
    config.train.log_every_steps = 20
    # Steps between evaluations on held-out text, each with a checkpoint; 0 means once per epoch, at
    # its end.
    config.train.evaluate_every_steps = 0
    # Steps between samples shown during training, each from the same prompt with the same noise; 0
    # shows none.
    config.train.sample_every_steps = 0
    # Stop after this many evaluations without a new best; 0 disables early stopping.
    config.train.patience = 0
    # Checkpoints to keep for good, besides the two latest and the best: a number of steps between
    # them (at least 40, and at most 50 checkpoints in a run), in digits; log for steps 1, 2, 4, 8,
    # ...; empty for none. They are about 12 bytes per parameter each.
    config.train.keep = ""
    # Folder of a run whose best weights to start from; empty for new weights. (--init_from=RUN)
    config.train.init_from = ""

    config.evaluation = ConfigDict()
    # Characters per non-overlapping window; 0 means data.sequence_length.
    config.evaluation.context = 0
    # Windows scored at once; affects the speed, and the result by rounding alone.
    config.evaluation.batch_size = 256
    # Maximum number of held-out characters scored during training, in windows spread evenly over
    # the held-out text; 0 means all. `charlm evaluate` scores all, up to 10,000,000.
    config.evaluation.max_characters = 500_000

    # Types are checked when the config is complete: NumPy's numbers become Python's there.
    return ConfigDict(config.to_dict(), type_safe=False)
