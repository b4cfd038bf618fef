"""Writes `recurrent.npz`: small recurrent language models, worked out by PyTorch.

    pip install torch==2.13.0 numpy==2.4.6      # PyTorch is needed here only, not by the tests
    python tests/goldens/make_recurrent_goldens.py

Each case is Embedding -> recurrent layers -> Dense, with every bias and every initial state
non-zero. Inputs (`params`, `initial`) are float32 and results (`logits`, `final`, `loss_nats`,
`grads`) float64: PyTorch computes in float64 from exactly those float32 inputs, so a float32 test
is off by its own rounding only, and a test in float64 can be tight. `ids` and `targets` are int32.
Keys are `<case>/<what>/...`; `about` holds a JSON text with the versions that made the file.
Before anything is written, plain NumPy must agree with PyTorch on everything but the gradients,
and finite differences with some entries of every gradient.

Layout, with the gates stacked along G (4H, 3H or H), x the input and h the hidden state:

    every layer  input_kernel (D, G), recurrent_kernel (H, G), bias (G,); D is H from layer 1 on
    lstm         i, f, g, o = split(x W + h U + b)      c' = sigmoid(f) c + sigmoid(i) tanh(g)
                                                        h' = sigmoid(o) tanh(c')
    gru          r = sigmoid(x W_r + h U_r + b_r)       z = sigmoid(x W_z + h U_z + b_z)
                 n = tanh(x W_n + b_n + r * (h U_n + candidate_bias))     candidate_bias (H,)
                 h' = (1 - z) n + z h
    rnn          h' = tanh(x W + h U + b)
    output       kernel (H, V), bias (V,)

PyTorch stores kernels transposed and has a second bias per gate; it is zero here but for the
GRU's candidate_bias. The loss is the mean softmax cross-entropy over all B * T targets, in nats.
The last symbol never occurs in `ids`, so its row of the embedding's gradient is zero.
"""

import json
import pathlib
import platform

import numpy as np
import torch

V, B, T, D, H = 11, 3, 7, 5, 6
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
STATES = {"lstm": ("hidden", "cell"), "gru": ("hidden",), "rnn": ("hidden",)}  # PyTorch's order
TORCH_LAYERS = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}
CASES = {"lstm": ("lstm", 1), "lstm_two_layers": ("lstm", 2), "gru": ("gru", 1), "rnn": ("rnn", 1)}
COMMAND = "python tests/goldens/make_recurrent_goldens.py"


def draw_inputs(kind, layers, seed):
    """Return the inputs of one case, keyed by path; wide enough that the gates leave 1/2."""
    generator = np.random.default_rng(seed)
    shapes = {
        "params/embedding": (V, D),
        "params/output/kernel": (H, V),
        "params/output/bias": (V,),
    }
    for layer in range(layers):
        at = f"params/layer_{layer}"
        shapes[f"{at}/input_kernel"] = (H if layer else D, GATES[kind] * H)
        shapes[f"{at}/recurrent_kernel"] = (H, GATES[kind] * H)
        shapes[f"{at}/bias"] = (GATES[kind] * H,)
        if kind == "gru":
            shapes[f"{at}/candidate_bias"] = (H,)
        for name in STATES[kind]:
            shapes[f"initial/{layer}/{name}"] = (B, H)
    case = {k: generator.normal(0, 0.7, s).astype(np.float32) for k, s in shapes.items()}
    case["ids"] = generator.integers(0, V - 1, (B, T), dtype=np.int32)
    case["targets"] = generator.integers(0, V, (B, T), dtype=np.int32)
    return case


def torch_results(kind, layers, case):
    """Return logits, loss, final states and gradients of one case, from PyTorch in float64."""
    ids = {k: torch.from_numpy(case[k]).long() for k in ("ids", "targets")}
    wide = {k: torch.from_numpy(v).double() for k, v in case.items() if k not in ids}
    embedding = torch.nn.Embedding(V, D).double()
    stack = TORCH_LAYERS[kind](D, H, num_layers=layers, batch_first=True).double()
    output = torch.nn.Linear(H, V).double()
    with torch.no_grad():
        embedding.weight.copy_(wide["params/embedding"])
        output.weight.copy_(wide["params/output/kernel"].T)
        output.bias.copy_(wide["params/output/bias"])
        for layer in range(layers):
            at = f"params/layer_{layer}"
            getattr(stack, f"weight_ih_l{layer}").copy_(wide[f"{at}/input_kernel"].T)
            getattr(stack, f"weight_hh_l{layer}").copy_(wide[f"{at}/recurrent_kernel"].T)
            getattr(stack, f"bias_ih_l{layer}").copy_(wide[f"{at}/bias"])
            getattr(stack, f"bias_hh_l{layer}").zero_()
            if kind == "gru":
                getattr(stack, f"bias_hh_l{layer}")[2 * H :] = wide[f"{at}/candidate_bias"]
    # PyTorch stacks the layers of each state in front; only its LSTM has a tuple of states.
    initial = tuple(
        torch.stack([wide[f"initial/{i}/{n}"] for i in range(layers)]) for n in STATES[kind]
    )
    x_BTD = embedding(ids["ids"])
    y_BTH, final = stack(x_BTD, initial if kind == "lstm" else initial[0])
    logits_BTV = output(y_BTH)
    loss_nats = torch.nn.functional.cross_entropy(
        logits_BTV.flatten(0, 1), ids["targets"].flatten()
    )
    loss_nats.backward()

    results = {"logits": logits_BTV, "loss_nats": loss_nats}
    for name, state in zip(STATES[kind], final if kind == "lstm" else (final,), strict=True):
        results |= {f"final/{layer}/{name}": state[layer] for layer in range(layers)}
    results["grads/embedding"] = embedding.weight.grad
    results["grads/output/kernel"] = output.weight.grad.T
    results["grads/output/bias"] = output.bias.grad
    for layer in range(layers):
        at = f"grads/layer_{layer}"
        results[f"{at}/input_kernel"] = getattr(stack, f"weight_ih_l{layer}").grad.T
        results[f"{at}/recurrent_kernel"] = getattr(stack, f"weight_hh_l{layer}").grad.T
        results[f"{at}/bias"] = getattr(stack, f"bias_ih_l{layer}").grad
        if kind == "gru":
            results[f"{at}/candidate_bias"] = getattr(stack, f"bias_hh_l{layer}").grad[2 * H :]
    return {k: v.detach().numpy().copy(order="C") for k, v in results.items()}


def sigmoid(x):
    """Return the logistic function of x."""
    return 1 / (1 + np.exp(-x))


def plain_step(kind, params, at, x_BD, state):
    """Return the next state of one layer, written from the equations at the top of this file."""
    h_BH = state["hidden"]
    W, U, b = (params[f"{at}/{n}"] for n in ("input_kernel", "recurrent_kernel", "bias"))
    if kind == "rnn":
        return {"hidden": np.tanh(x_BD @ W + h_BH @ U + b)}
    if kind == "lstm":
        i, f, g, o = np.split(x_BD @ W + h_BH @ U + b, 4, axis=-1)
        c_BH = sigmoid(f) * state["cell"] + sigmoid(i) * np.tanh(g)
        return {"cell": c_BH, "hidden": sigmoid(o) * np.tanh(c_BH)}
    (x_r, x_z, x_n), (h_r, h_z, h_n) = np.split(x_BD @ W + b, 3, -1), np.split(h_BH @ U, 3, -1)
    r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
    n = np.tanh(x_n + r * (h_n + params[f"{at}/candidate_bias"]))
    return {"hidden": (1 - z) * n + z * h_BH}


def plain_results(kind, layers, case):
    """Return logits, loss and final states of one case, from plain NumPy in float64."""
    case = {k: v if k in ("ids", "targets") else v.astype(np.float64) for k, v in case.items()}
    states = [{n: case[f"initial/{i}/{n}"] for n in STATES[kind]} for i in range(layers)]
    logits_BTV = np.zeros((B, T, V))
    for t in range(T):
        x_BD = case["params/embedding"][case["ids"][:, t]]
        for i in range(layers):
            states[i] = plain_step(kind, case, f"params/layer_{i}", x_BD, states[i])
            x_BD = states[i]["hidden"]
        logits_BTV[:, t] = x_BD @ case["params/output/kernel"] + case["params/output/bias"]
    log_z_BT = np.log(np.exp(logits_BTV).sum(-1))
    target_logits_BT = np.take_along_axis(logits_BTV, case["targets"][..., None], -1)[..., 0]
    results = {"logits": logits_BTV, "loss_nats": (log_z_BT - target_logits_BT).mean()}
    return results | {f"final/{i}/{n}": states[i][n] for i in range(layers) for n in STATES[kind]}


def check(kind, layers, case, results, step=1e-5, entries=6):
    """Return the largest errors of PyTorch's results and gradients against plain NumPy.

    Gradients are checked on `entries` random entries of every parameter, by central differences.

    Raises:
        ValueError: a shape differs, or an error is more than rounding explains.
    """
    generator = np.random.default_rng(0)
    plain = plain_results(kind, layers, case)
    for path, value in plain.items():
        if np.shape(value) != results[path].shape:
            raise ValueError(f"{path}: shape {results[path].shape}, not {np.shape(value)}")
    forward_error = max(np.abs(plain[path] - results[path]).max() for path in plain)
    gradient_error = 0.0
    for path in (path for path in case if path.startswith("params/")):
        grads = results[path.replace("params/", "grads/", 1)]
        if grads.shape != case[path].shape:
            raise ValueError(f"{path}: gradient of shape {grads.shape}, not {case[path].shape}")
        for flat in generator.choice(grads.size, entries, replace=False):
            at, losses = np.unravel_index(flat, grads.shape), []
            for sign in (1, -1):
                moved = case[path].astype(np.float64)
                moved[at] += sign * step
                losses.append(plain_results(kind, layers, case | {path: moved})["loss_nats"])
            slope = (losses[0] - losses[1]) / (2 * step)
            gradient_error = max(gradient_error, abs(slope - grads[at]))
    if not (forward_error < 1e-12 and gradient_error < 1e-8):
        raise ValueError(f"{kind}: errors of {forward_error:.1e} and {gradient_error:.1e}")
    return forward_error, gradient_error


def main():
    """Makes every case, checks it, and writes the file beside this script."""
    torch.set_num_threads(1)
    arrays = {}
    for seed, (name, (kind, layers)) in enumerate(CASES.items()):
        case = draw_inputs(kind, layers, seed)
        results = torch_results(kind, layers, case)
        forward_error, gradient_error = check(kind, layers, case, results)
        arrays |= {f"{name}/{path}": value for path, value in (case | results).items()}
        loss = f"{float(results['loss_nats']):.9f} nats"
        print(f"{name:16} {loss}  forward {forward_error:.1e}  gradient {gradient_error:.1e}")
    versions = {"torch": torch.__version__, "numpy": np.__version__}
    about = {"command": COMMAND, "python": platform.python_version(), **versions}
    arrays["about"] = np.array(json.dumps(about))
    path = pathlib.Path(__file__).with_name("recurrent.npz")
    np.savez_compressed(path, **arrays)
    print(f"{path.name}: {len(arrays)} arrays, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
