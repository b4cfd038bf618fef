"""Writes `attention.npz`: causal attention layers and transformer blocks, worked out by PyTorch.

    pip install torch==2.13.0 numpy==2.4.6      # PyTorch is needed here only, not by the tests
    python tests/goldens/make_attention_goldens.py

A layer is four linear maps without biases around `scaled_dot_product_attention`, a block is
`torch.nn.TransformerEncoderLayer` without biases. Inputs (`x`, `params`, `probe`) are float32 and
results (`output`, `grads`) float64: PyTorch computes in float64 from exactly those float32 inputs,
so a float32 test is off by its own rounding only. The gradients are those of sum(output * probe).
Keys are `<case>/<what>/...`; `about` holds a JSON text with the versions that made the file.
Before anything is written, plain NumPy must agree with PyTorch on every output, and finite
differences with some entries of every gradient.

Layout, with x (B, T, D) the input, H heads of queries, M of keys and values, K wide each:

    layers     query (D, H * K), key and value (D, M * K), output (H * K, H * K); qk_norm also has
               query_norm and key_norm (K,), scales of an RMS norm with epsilon 1e-6
    blocks     the same, mixer_norm and mlp_norm (D,), scales of a layer norm with epsilon 1e-5,
               and mlp_input (D, F) and mlp_output (F, D) around an exact GELU

PyTorch stores kernels transposed, and those of queries, keys and values in one.
"""

import json
import math
import pathlib
import platform

import numpy as np
import torch

B, T, D, K, F = 2, 7, 6, 2, 12
PLAIN = {"kv_heads": 4, "window": 0, "alibi": False, "qk_norm": False, "block": "none"}
CASES = {
    "one_head": {"heads": 1, "kv_heads": 1},
    "four_heads": {"heads": 4},
    "grouped": {"heads": 4, "kv_heads": 2},
    "one_key_head": {"heads": 4, "kv_heads": 1},
    "qk_norm": {"heads": 4, "qk_norm": True},
    "window": {"heads": 4, "window": 3},
    "alibi": {"heads": 4, "alibi": True},
    "alibi_window_grouped": {"heads": 4, "kv_heads": 2, "window": 4, "alibi": True},
    "pre_norm": {"heads": 4, "block": "pre_norm"},
    "post_norm": {"heads": 4, "block": "post_norm"},
}
COMMAND = "python tests/goldens/make_attention_goldens.py"


def draw_inputs(what, seed):
    """Return the inputs of one case, keyed by path; scores are wide enough to tell keys apart."""
    generator = np.random.default_rng(seed)
    size, kv_size = what["heads"] * K, what["kv_heads"] * K
    width = D if what["block"] == "none" else size  # what is added to a stream has its width
    shapes = {
        "x": (B, T, width),
        "probe": (B, T, size),
        "params/query": (width, size),
        "params/key": (width, kv_size),
        "params/value": (width, kv_size),
        "params/output": (size, size),
    }
    if what["qk_norm"]:
        shapes |= {"params/query_norm": (K,), "params/key_norm": (K,)}
    if what["block"] != "none":
        shapes |= {"params/mixer_norm": (size,), "params/mlp_norm": (size,)}
        shapes |= {"params/mlp_input": (size, F), "params/mlp_output": (F, size)}
    return {k: generator.normal(0, 0.9, s).astype(np.float32) for k, s in shapes.items()}


def seen_and_bias(what):
    """Return which positions see which (T, T), and what is added to their scores (H, T, T)."""
    distance_TS = np.arange(T)[:, None] - np.arange(T)[None, :]
    seen_TS = (distance_TS >= 0) & (distance_TS < (what["window"] or T))
    slopes_H = np.array([2.0 ** (-8 * (h + 1) / what["heads"]) for h in range(what["heads"])])
    bias_HTS = -slopes_H[:, None, None] * distance_TS * what["alibi"]
    return seen_TS, bias_HTS


def torch_layer(what, x, params):
    """Return the output of one layer, from PyTorch."""

    def heads_of(name, count):
        return (x @ params[f"params/{name}"]).view(B, T, count, K).transpose(1, 2)

    query_BHTK = heads_of("query", what["heads"])
    key_BMTK, value_BMTK = (heads_of(name, what["kv_heads"]) for name in ("key", "value"))
    if what["qk_norm"]:
        norm = torch.nn.functional.rms_norm
        query_BHTK = norm(query_BHTK, (K,), params["params/query_norm"], eps=1e-6)
        key_BMTK = norm(key_BMTK, (K,), params["params/key_norm"], eps=1e-6)
    seen_TS, bias_HTS = (torch.from_numpy(a) for a in seen_and_bias(what))
    added_HTS = bias_HTS.masked_fill(~seen_TS, -math.inf)
    output_BHTK = torch.nn.functional.scaled_dot_product_attention(
        query_BHTK, key_BMTK, value_BMTK, attn_mask=added_HTS, enable_gqa=True
    )
    return output_BHTK.transpose(1, 2).flatten(2) @ params["params/output"]


def torch_block(what, x, params):
    """Return the output of one block, from PyTorch's own module."""
    block = torch.nn.TransformerEncoderLayer(
        what["heads"] * K,
        what["heads"],
        dim_feedforward=F,
        dropout=0.0,
        activation="gelu",
        layer_norm_eps=1e-5,
        batch_first=True,
        norm_first=what["block"] == "pre_norm",
        bias=False,
        dtype=torch.float64,
    )
    kernels = [params[f"params/{name}"].T for name in ("query", "key", "value")]
    weights = {
        "self_attn.in_proj_weight": torch.cat(kernels),
        "self_attn.out_proj.weight": params["params/output"].T,
        "linear1.weight": params["params/mlp_input"].T,
        "linear2.weight": params["params/mlp_output"].T,
        "norm1.weight": params["params/mixer_norm"],
        "norm2.weight": params["params/mlp_norm"],
    }
    if weights.keys() != dict(block.named_parameters()).keys():
        raise ValueError("PyTorch's block has other parameters")
    future_TS = torch.ones(T, T, dtype=torch.bool).triu(1)
    arguments = {"src_mask": future_TS, "is_causal": True}
    # Called on our arrays, so that the gradients are theirs.
    return torch.func.functional_call(block, weights, (x,), arguments)


def torch_results(what, case):
    """Return output and gradients of one case, from PyTorch in float64."""
    wide = {k: torch.from_numpy(v).double().requires_grad_(k != "probe") for k, v in case.items()}
    compute = torch_layer if what["block"] == "none" else torch_block
    output_BTD = compute(what, wide["x"], wide)
    (output_BTD * wide["probe"]).sum().backward()
    results = {"output": output_BTD}
    for path, value in wide.items():
        if path != "probe":
            results[f"grads/{path.removeprefix('params/')}"] = value.grad
    return {k: v.detach().numpy().copy(order="C") for k, v in results.items()}


def plain_attention(what, params, x_TD):
    """Return the output of one row of a layer, from loops over heads and positions."""
    seen_TS, bias_HTS = seen_and_bias(what)
    query, key, value = (x_TD @ params[f"params/{name}"] for name in ("query", "key", "value"))
    output_TD = np.zeros_like(query)
    for head in range(what["heads"]):
        own = slice(head * K, (head + 1) * K)
        shared = head // (what["heads"] // what["kv_heads"])
        theirs = slice(shared * K, (shared + 1) * K)
        for t in range(T):
            q, keys = query[t, own], key[:, theirs]
            if what["qk_norm"]:
                q = q / np.sqrt(np.mean(q**2) + 1e-6) * params["params/query_norm"]
                keys = keys / np.sqrt(np.mean(keys**2, axis=1, keepdims=True) + 1e-6)
                keys = keys * params["params/key_norm"]
            weights = np.zeros(T)
            for s in range(T):
                if seen_TS[t, s]:
                    weights[s] = np.exp(q @ keys[s] / math.sqrt(K) + bias_HTS[head, t, s])
            output_TD[t, own] = weights / weights.sum() @ value[:, theirs]
    return output_TD @ params["params/output"]


def layer_norm(x_TD, scale_D):
    """Return x with mean 0 and variance 1 over its entries, times the scale."""
    x_TD = x_TD - x_TD.mean(axis=1, keepdims=True)
    return x_TD / np.sqrt(np.mean(x_TD**2, axis=1, keepdims=True) + 1e-5) * scale_D


def plain_mlp(params, x_TD):
    """Return linear, exact GELU, linear."""
    erf = np.vectorize(math.erf)
    hidden_TF = x_TD @ params["params/mlp_input"]
    hidden_TF = 0.5 * hidden_TF * (1 + erf(hidden_TF / math.sqrt(2)))
    return hidden_TF @ params["params/mlp_output"]


def plain_output(what, case):
    """Return the output of one case, from plain NumPy in float64."""
    case = {k: v.astype(np.float64) for k, v in case.items()}
    rows = []
    for x_TD in case["x"]:
        if what["block"] == "pre_norm":
            x_TD = x_TD + plain_attention(what, case, layer_norm(x_TD, case["params/mixer_norm"]))
            x_TD = x_TD + plain_mlp(case, layer_norm(x_TD, case["params/mlp_norm"]))
        elif what["block"] == "post_norm":
            x_TD = layer_norm(x_TD + plain_attention(what, case, x_TD), case["params/mixer_norm"])
            x_TD = layer_norm(x_TD + plain_mlp(case, x_TD), case["params/mlp_norm"])
        else:
            x_TD = plain_attention(what, case, x_TD)
        rows.append(x_TD)
    return np.stack(rows)


def check(name, what, case, results, step=1e-5, entries=4):
    """Return the largest errors of PyTorch's output and gradients against plain NumPy.

    Gradients are checked on `entries` random entries of every input, by central differences.

    Raises:
        ValueError: a shape differs, or an error is more than rounding explains.
    """
    generator = np.random.default_rng(0)
    output = plain_output(what, case)
    if output.shape != results["output"].shape:
        raise ValueError(f"{name}: output of shape {results['output'].shape}, not {output.shape}")
    forward_error, gradient_error = np.abs(output - results["output"]).max(), 0.0
    for path in (path for path in case if path != "probe"):
        grads = results[f"grads/{path.removeprefix('params/')}"]
        if grads.shape != case[path].shape:
            raise ValueError(f"{path}: gradient of shape {grads.shape}, not {case[path].shape}")
        for flat in generator.choice(grads.size, min(entries, grads.size), replace=False):
            at, sums = np.unravel_index(flat, grads.shape), []
            for sign in (1, -1):
                moved = case[path].astype(np.float64)
                moved[at] += sign * step
                sums.append((plain_output(what, case | {path: moved}) * case["probe"]).sum())
            slope = (sums[0] - sums[1]) / (2 * step)
            gradient_error = max(gradient_error, abs(slope - grads[at]))
    if not (forward_error < 1e-12 and gradient_error < 1e-6):
        raise ValueError(f"{name}: errors of {forward_error:.1e} and {gradient_error:.1e}")
    return forward_error, gradient_error


def main():
    """Makes every case, checks it, and writes the file beside this script."""
    torch.set_num_threads(1)
    arrays = {}
    for seed, (name, what) in enumerate(CASES.items()):
        what = PLAIN | what
        case = draw_inputs(what, seed)
        results = torch_results(what, case)
        forward_error, gradient_error = check(name, what, case, results)
        arrays |= {f"{name}/{path}": value for path, value in (case | results).items()}
        print(f"{name:22} forward {forward_error:.1e}  gradient {gradient_error:.1e}")
    versions = {"torch": torch.__version__, "numpy": np.__version__}
    about = {"command": COMMAND, "python": platform.python_version(), **versions}
    arrays["about"] = np.array(json.dumps(about))
    path = pathlib.Path(__file__).with_name("attention.npz")
    np.savez_compressed(path, **arrays)
    print(f"{path.name}: {len(arrays)} arrays, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
