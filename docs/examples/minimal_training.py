"""Train a character-level language model with its pure functions and optax, and sample from it.

    python docs/examples/minimal_training.py path/to/text.txt [STEPS]

The text needs at least a few KB. `charlm_jax.train` adds learning rate schedules, held-out
evaluation, checkpoints that resume exactly, and metrics.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

from charlm_jax import load_config
from charlm_jax.data.vocabulary import Vocabulary
from charlm_jax.models import build_model

LENGTH, BATCH, SCALE = 64, 32, 2.0  # the scale factor is the inverse temperature

if len(sys.argv) < 2:
    sys.exit("usage: minimal_training.py TEXT [STEPS]")
text = Path(sys.argv[1]).read_text(encoding="utf-8")
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 500

if len(text) < LENGTH + 2:
    sys.exit(f"the text has {len(text)} characters: it needs at least {LENGTH + 2}")

vocabulary = Vocabulary.from_text(text)
ids_N = jnp.asarray(vocabulary.encode(text), jnp.int32)
config = load_config("quickstart")  # one GRU; for "transformer" lower the learning rate to 1e-3
model = build_model(config.model, len(vocabulary))
optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(5e-3))


def loss_fn(params, chunks_BT):
    """Mean cross-entropy in nats of each character after the first, given those before it."""
    state = model.initial_state(len(chunks_BT), context=0)  # nothing is kept between calls
    logits_BTV, _ = model.apply(params, chunks_BT[:, :-1], state)
    targets_BT = chunks_BT[:, 1:]
    return optax.softmax_cross_entropy_with_integer_labels(logits_BTV, targets_BT).mean()


@jax.jit
def train_step(params, opt_state, key):
    """Take one optimizer step on random crops of the text."""
    starts_B = jax.random.randint(key, (BATCH,), 0, len(ids_N) - LENGTH)
    chunks_BT = ids_N[starts_B[:, None] + jnp.arange(LENGTH + 1)[None, :]]
    loss, gradients = jax.value_and_grad(loss_fn)(params, chunks_BT)
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss


@jax.jit
def sample_step(params, id_B, state, key):
    """Read one character, then sample the next from softmax(scale * logits)."""
    logits_BTV, state = model.apply(params, id_B[:, None], state)
    return jax.random.categorical(key, SCALE * logits_BTV[:, -1]), state


init_key, train_key, sample_key = jax.random.split(jax.random.key(0), 3)
params = model.init(init_key)
opt_state = optimizer.init(params)
for step in range(steps):
    params, opt_state, loss = train_step(params, opt_state, jax.random.fold_in(train_key, step))
    if step == 0 or (step + 1) % 50 == 0:
        print(f"step {step + 1}: {loss:.3f} nats per character")

# Attention keeps the last `context` positions; a recurrent layer ignores it.
id_B, state = ids_N[:1], model.initial_state(1, context=LENGTH)
sampled = [int(id_B[0])]
for position in range(299):
    id_B, state = sample_step(params, id_B, state, jax.random.fold_in(sample_key, position))
    sampled.append(int(id_B[0]))
print(vocabulary.decode(sampled))
