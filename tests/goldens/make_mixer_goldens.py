"""Writes `mixers.npz`: layers as public implementations of their authors or others compute them.

    pip install torch==2.14.1 transformers==5.24.0 xlstm==2.0.6 mlstm_kernels==2.0.6 numpy==2.4.6
    python tests/goldens/make_mixer_goldens.py       # only this script needs them, not the tests

Each case reads x (B, T, D) from an empty state. `NAME/x` and `NAME/y` are its inputs and outputs,
`NAME/params/...` its weights by the names of this package; all are float32. The references are

    rglru           RecurrentGemmaRecurrentBlock of transformers
    gated_deltanet  Qwen3NextGatedDeltaNet of transformers
    mamba2          Mamba2Mixer of transformers
    mlstm           parallel_stabilized_simple of xlstm, with the layer around it in PyTorch
    slstm           slstm_forward_pointwise of xlstm, with the products around it in PyTorch

Where they leave a choice, it is this package's: an exact GELU, a convolution with a bias (0 for
Gated DeltaNet, whose reference has none). RecurrentGemma does not scale the first input of a text;
it is told that the text has begun before.
"""

import json
import pathlib
import platform

import numpy as np
import torch
import transformers
import xlstm
from torch.nn import functional
from transformers.models.mamba2.modeling_mamba2 import Mamba2Config, Mamba2Mixer
from transformers.models.qwen3_next.modeling_qwen3_next import (
    Qwen3NextConfig,
    Qwen3NextGatedDeltaNet,
)
from transformers.models.recurrent_gemma.modeling_recurrent_gemma import (
    RecurrentGemmaConfig,
    RecurrentGemmaRecurrentBlock,
)
from xlstm.blocks.mlstm.backends import parallel_stabilized_simple
from xlstm.blocks.slstm.src.vanilla.slstm import slstm_forward_pointwise

B, T, D, HEADS, STATE, WIDTH = 3, 20, 8, 2, 5, 4
COMMAND = "python tests/goldens/make_mixer_goldens.py"


def linear(params, name, x):
    """Return x W + b."""
    y = x @ params[f"{name}/kernel"]
    return y + params[f"{name}/bias"] if f"{name}/bias" in params else y


def set_linear(layer, kernel, bias=None):
    """Copies a kernel, (inputs, outputs), and a bias."""
    layer.weight.copy_(kernel.T)
    if bias is not None:
        layer.bias.copy_(bias)


def set_convolution(layer, kernel, bias=None):
    """Copies a kernel (positions, channels), and a bias."""
    layer.weight.copy_(kernel.T[:, None, :])
    if bias is not None:
        layer.bias.copy_(bias)


def rglru(params, x):
    config = RecurrentGemmaConfig(
        hidden_size=D,
        lru_width=D,
        num_attention_heads=HEADS,
        conv1d_width=WIDTH,
        hidden_activation="gelu",
    )
    block = RecurrentGemmaRecurrentBlock(config, 0)
    branch, gate = params["input/kernel"].chunk(2, dim=1)
    branch_bias, gate_bias = params["input/bias"].chunk(2)
    set_linear(block.linear_x, branch, branch_bias)
    set_linear(block.linear_y, gate, gate_bias)
    set_convolution(block.conv_1d, params["convolution/kernel"], params["convolution/bias"])
    unit = block.rg_lru
    recurrence, input_gate = params["gate_kernel"].chunk(2, dim=2)
    unit.recurrent_gate_weight.copy_(recurrence)
    unit.input_gate_weight.copy_(input_gate)
    unit.recurrent_gate_bias.copy_(params["gate_bias"][0].view(HEADS, -1))
    unit.input_gate_bias.copy_(params["gate_bias"][1].view(HEADS, -1))
    unit.recurrent_param.copy_(-params["decay_bias"])  # softplus(-L) is -log sigmoid(L)
    set_linear(block.linear_out, params["output/kernel"])
    block.linear_out.bias.zero_()
    positions = torch.arange(1, T + 1).expand(B, T)
    return block(x, positions, None, use_cache=False)[0]


def gated_deltanet(params, x):
    config = Qwen3NextConfig(
        hidden_size=D,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
        linear_num_value_heads=HEADS,
        linear_num_key_heads=HEADS,
        linear_key_head_dim=D // HEADS,
        linear_value_head_dim=D // HEADS,
        linear_conv_kernel_dim=WIDTH,
    )
    layer = Qwen3NextGatedDeltaNet(config, 0)
    parts = params["input/kernel"].split([D, D, D, D, HEADS, HEADS], dim=1)
    *qkvz, a, b = (part.view(D, HEADS, -1) for part in parts)
    set_linear(layer.in_proj_qkvz, torch.cat(qkvz, dim=2).reshape(D, -1))  # head by head
    set_linear(layer.in_proj_ba, torch.cat([b, a], dim=2).reshape(D, -1))
    set_convolution(layer.conv1d, params["convolution/kernel"])
    layer.dt_bias.copy_(params["decay/step_bias"])
    layer.A_log.copy_(params["decay/rate_bias"])
    layer.norm.weight.copy_(params["norm/scale"])
    # It divides queries by the root of their width, which its norm undoes but for its epsilon.
    layer.norm.variance_epsilon = 1e-6 / (D // HEADS)
    set_linear(layer.out_proj, params["output/kernel"])
    return layer(x)


def mamba2(params, x):
    config = Mamba2Config(
        hidden_size=D,
        num_hidden_layers=1,
        num_heads=HEADS,
        head_dim=2 * D // HEADS,
        state_size=STATE,
        n_groups=1,
        conv_kernel=WIDTH,
        expand=2,
        use_bias=False,
        use_conv_bias=True,
        layer_norm_epsilon=1e-6,
        chunk_size=7,
    )
    layer = Mamba2Mixer(config, 0)
    set_linear(layer.in_proj, params["input/kernel"])
    set_convolution(layer.conv1d, params["convolution/kernel"], params["convolution/bias"])
    layer.dt_bias.copy_(params["decay/step_bias"])
    layer.A_log.copy_(params["decay/rate_bias"])
    layer.D.copy_(params["skip_scale"])
    layer.norm.weight.copy_(params["norm/scale"])
    set_linear(layer.out_proj, params["output/kernel"])
    return layer.eval()(x)


def mlstm(params, x):
    parts = linear(params, "input", x).split([2 * D, D, D, HEADS, HEADS], dim=2)
    qk, v, o, i, f = parts
    kernel, bias = params["convolution/kernel"], params["convolution/bias"]
    padded = functional.pad(qk.transpose(1, 2), (WIDTH - 1, 0))
    convolved = functional.conv1d(padded, kernel.T[:, None, :], bias, groups=2 * D)
    q, k = functional.silu(convolved.transpose(1, 2)).chunk(2, dim=2)
    q, k, v = (z.view(B, T, HEADS, -1).transpose(1, 2) for z in (q, k, v))
    i, f = (z.transpose(1, 2)[..., None] for z in (i, f))
    h = parallel_stabilized_simple(q, k, v, i, f, eps=0.0).transpose(1, 2)
    h = functional.layer_norm(h, (D // HEADS,), params["norm/scale"], eps=1e-5)
    return linear(params, "output", torch.sigmoid(o) * h.reshape(B, T, D))


def slstm(params, x):
    z = linear(params, "input", x)
    kernel, states, outputs = params["recurrent_kernel"], torch.zeros(4, B, D), []
    for t in range(T):
        h = states[0].view(B, HEADS, 1, -1)
        recurrent = (h @ kernel).view(B, HEADS, 4, -1).transpose(1, 2).reshape(B, 4 * D)
        states, _ = slstm_forward_pointwise(z[:, t], recurrent, torch.zeros(1, 4 * D), states, {})
        outputs.append(states[0])
    return torch.stack(outputs, dim=1)


GATES = 4 * D + 2 * HEADS
DECAY = {"decay/step_bias": (HEADS,), "decay/rate_bias": (HEADS,)}
CASES = {
    "rglru": (
        rglru,
        {
            "input/kernel": (D, 2 * D),
            "input/bias": (2 * D,),
            "convolution/kernel": (WIDTH, D),
            "convolution/bias": (D,),
            "gate_kernel": (HEADS, D // HEADS, 2 * D // HEADS),
            "gate_bias": (2, D),
            "decay_bias": (D,),
            "output/kernel": (D, D),
        },
    ),
    "gated_deltanet": (
        gated_deltanet,
        {
            "input/kernel": (D, GATES),
            "convolution/kernel": (WIDTH, 3 * D),
            "convolution/bias": (3 * D,),
            **DECAY,
            "norm/scale": (D // HEADS,),
            "output/kernel": (D, D),
        },
    ),
    "mamba2": (
        mamba2,
        {
            "input/kernel": (D, 4 * D + 2 * STATE + HEADS),
            "convolution/kernel": (WIDTH, 2 * D + 2 * STATE),
            "convolution/bias": (2 * D + 2 * STATE,),
            **DECAY,
            "skip_scale": (HEADS,),
            "norm/scale": (2 * D,),
            "output/kernel": (2 * D, D),
        },
    ),
    "mlstm": (
        mlstm,
        {
            "input/kernel": (D, GATES),
            "input/bias": (GATES,),
            "convolution/kernel": (WIDTH, 2 * D),
            "convolution/bias": (2 * D,),
            "norm/scale": (D // HEADS,),
            "output/kernel": (D, D),
        },
    ),
    "slstm": (
        slstm,
        {
            "input/kernel": (D, 4 * D),
            "input/bias": (4 * D,),
            "recurrent_kernel": (HEADS, D // HEADS, 4 * D // HEADS),
        },
    ),
}


def main():
    """Makes every case, and writes the file beside this script."""
    torch.set_num_threads(1)
    arrays = {}
    for seed, (name, (reference, shapes)) in enumerate(CASES.items()):
        generator = np.random.default_rng(seed)
        params = {k: generator.normal(0, 0.7, s).astype(np.float32) for k, s in shapes.items()}
        if name == "gated_deltanet":
            params["convolution/bias"] = np.zeros_like(params["convolution/bias"])
        x = generator.normal(0, 1, (B, T, D)).astype(np.float32)
        with torch.no_grad():
            y = reference({k: torch.from_numpy(v) for k, v in params.items()}, torch.from_numpy(x))
        y = y.numpy()
        print(f"{name:16} mean square {np.mean(y**2):.4f}")
        arrays |= {f"{name}/x": x, f"{name}/y": y}
        arrays |= {f"{name}/params/{path}": value for path, value in params.items()}
    versions = {module.__name__: module.__version__ for module in (np, torch, transformers)}
    versions["xlstm"] = xlstm.__version__
    about = {"command": COMMAND, "python": platform.python_version(), **versions}
    arrays["about"] = np.array(json.dumps(about))
    np.savez_compressed(pathlib.Path(__file__).with_name("mixers.npz"), **arrays)


if __name__ == "__main__":
    main()
