"""PyTorch versions of the tutorial's model and of the one in configs/transformer.py."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from charlm_jax.config.schema import ModelConfig


class LSTM(nn.Module):
    """Embedding, LSTM and linear output layer: ids_BT -> logits_BTV."""

    def __init__(self, symbols: int, embedding_size: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, embedding_size)
        self.lstm = nn.LSTM(embedding_size, hidden_size, batch_first=True)
        self.output = nn.Linear(hidden_size, symbols)

    def forward(self, ids_BT: Any) -> Any:
        return self.read(ids_BT, None)[0]

    def read(self, ids_BT: Any, state: Any) -> tuple[Any, Any]:
        """Return the logits and the new state, from an initial state; None is a zero state."""
        hidden_BTH, state = self.lstm(self.embedding(ids_BT), state)
        return self.output(hidden_BTH), state


class Attention(nn.Module):
    """Causal attention with rotary positions and normalized queries and keys."""

    def __init__(self, size: int, heads: int, length: int) -> None:
        super().__init__()
        width = size // heads
        self.heads = heads
        self.query_key_value = nn.Linear(size, 3 * size, bias=False)
        self.output = nn.Linear(size, size, bias=False)
        self.query_norm = nn.RMSNorm(width, eps=1e-6)
        self.key_norm = nn.RMSNorm(width, eps=1e-6)
        nn.init.zeros_(self.output.weight)
        rates_K = 10_000.0 ** (-torch.arange(0, width, 2) / width)
        angles_TK = torch.arange(length)[:, None] * rates_K
        self.register_buffer("cos_TK", angles_TK.cos())
        self.register_buffer("sin_TK", angles_TK.sin())

    def forward(self, x_BTD: Any) -> Any:
        batch, length, size = x_BTD.shape
        stacked = self.query_key_value(x_BTD).view(batch, length, 3, self.heads, -1)
        query_BHTK, key_BHTK, value_BHTK = stacked.permute(2, 0, 3, 1, 4)
        query_BHTK = self.rotate(self.query_norm(query_BHTK))
        key_BHTK = self.rotate(self.key_norm(key_BHTK))
        y_BHTK = F.scaled_dot_product_attention(query_BHTK, key_BHTK, value_BHTK, is_causal=True)
        return self.output(y_BHTK.transpose(1, 2).reshape(batch, length, size))

    def rotate(self, x_BHTK: Any) -> Any:
        a, b = x_BHTK.chunk(2, dim=-1)
        turned = (a * self.cos_TK - b * self.sin_TK, b * self.cos_TK + a * self.sin_TK)
        return torch.cat(turned, dim=-1)


class Block(nn.Module):
    """Attention and an MLP with squared ReLU, as pre-norm residual branches."""

    def __init__(self, model: ModelConfig, length: int) -> None:
        super().__init__()
        size, hidden_size = model.hidden_size, round(model.mlp_ratio * model.hidden_size)
        self.attention_norm = nn.RMSNorm(size, eps=1e-6)
        self.attention = Attention(size, model.heads, length)
        self.mlp_norm = nn.RMSNorm(size, eps=1e-6)
        self.input = nn.Linear(size, hidden_size, bias=False)
        self.output = nn.Linear(hidden_size, size, bias=False)
        nn.init.zeros_(self.output.weight)

    def forward(self, x_BTD: Any) -> Any:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD))
        return x_BTD + self.output(F.relu(self.input(self.mlp_norm(x_BTD))).square())


class Transformer(nn.Module):
    """Transformer with the parts and sizes of configs/transformer.py, for `length` positions."""

    def __init__(self, model: ModelConfig, symbols: int, length: int) -> None:
        super().__init__()
        size = model.hidden_size
        self.embedding = nn.Embedding(symbols, size)
        self.blocks = nn.Sequential(*[Block(model, length) for _ in model.layers])
        self.norm = nn.RMSNorm(size, eps=1e-6)
        self.output = nn.Linear(size, symbols)

    def forward(self, ids_BT: Any) -> Any:
        return self.output(self.norm(self.blocks(self.embedding(ids_BT))))
