"""The sequence mixers by name. A new one is one class, and one line here.

A mixer is a Linen module with `__call__(x_BTD, state) -> (y_BTD, state)` and
`initial_state(batch_size, context)`, which uses no parameters. One whose first act is a linear
projection may offer that as `project(x)`, and the rest as `mix(z, state)`.
"""

from collections.abc import Callable, Mapping

from flax import linen as nn

from charlm_jax.config import ModelConfig
from charlm_jax.models.gru import GRU
from charlm_jax.models.initializers import init_scheme
from charlm_jax.models.lstm import LSTM
from charlm_jax.models.rnn import RNN

MIXERS: Mapping[str, Callable[[ModelConfig], nn.Module]] = {
    "lstm": lambda model: LSTM(hidden_size=model.hidden_size, scheme=init_scheme(model.init)),
    "gru": lambda model: GRU(hidden_size=model.hidden_size, scheme=init_scheme(model.init)),
    "rnn": lambda model: RNN(hidden_size=model.hidden_size, scheme=init_scheme(model.init)),
}
