// SPDX-License-Identifier: Apache-2.0
// Parts of layers, for one character at a time. Outputs are arrays of the layer that its next step
// overwrites. The equations are those of the files of the same names in charlm_jax/models.

/** Returns a function x -> x W (+ b); `at(name)` are the weights, `path` that of the layer. */
function dense(weights, path, inputs, outputs) {
  const kernel = byOutput(weights.at(`${path}.kernel`, [inputs, outputs]), inputs, outputs);
  const bias = weights.has(`${path}.bias`) ? weights.at(`${path}.bias`, [outputs]) : null;
  const out = new Float32Array(outputs);
  return (x) => {
    multiply(out, kernel, x, bias);
    return out;
  };
}

/** Returns a function that makes an array of zeros for every name. */
function unitArrays(names, size) {
  return () => Object.fromEntries(names.map((name) => [name, new Float32Array(size)]));
}

/** Returns the kernel of each head, (heads, inputs, outputs), stored by output. */
function headKernels(weights, name, heads, inputs, outputs) {
  const all = weights.at(name, [heads, inputs, outputs]);
  const size = inputs * outputs;
  return Array.from({ length: heads }, (_, head) =>
    byOutput(all.subarray(head * size, (head + 1) * size), inputs, outputs),
  );
}

/**
 * Returns a causal convolution of a few positions, one filter for each channel: start() are the
 * inputs before a text, and apply(x, past) reads one more.
 */
function shortConvolution(weights, path, channels, positions) {
  const start = () => new Float32Array(Math.max(positions - 1, 0) * channels);
  if (positions === 0) return { start, apply: (x) => x };
  const kernel = weights.at(`${path}.kernel`, [positions, channels]);
  const bias = weights.at(`${path}.bias`, [channels]);
  const own = (positions - 1) * channels; // where the filters of the position's own input begin
  const out = new Float32Array(channels);
  const apply = (x, past) => {
    for (let channel = 0; channel < channels; channel++) {
      let sum = kernel[own + channel] * x[channel];
      for (let at = channel; at < own; at += channels) sum += kernel[at] * past[at];
      out[channel] = sum + bias[channel];
    }
    if (own > 0) {
      past.copyWithin(0, channels);
      past.set(x, own - channels);
    }
    return out;
  };
  return { start, apply };
}

/** Returns a norm without bias over the last `size` numbers of an array. */
function norm(weights, path, kind, size) {
  const scale = weights.at(`${path}.scale`, [size]);
  const centres = kind === "layer_norm";
  const epsilon = centres ? 1e-5 : 1e-6;
  return (x) => {
    const out = new Float32Array(x.length);
    for (let from = 0; from < x.length; from += size) {
      let sum = 0;
      if (centres) for (let j = 0; j < size; j++) sum += x[from + j];
      const mean = sum / size;
      let squares = 0;
      for (let j = 0; j < size; j++) squares += (x[from + j] - mean) ** 2;
      const factor = 1 / Math.sqrt(squares / size + epsilon);
      for (let j = 0; j < size; j++) out[from + j] = (x[from + j] - mean) * factor * scale[j];
    }
    return out;
  };
}

const ACTIVATIONS = {
  gelu: (x) => 0.5 * x * (1 + erf(x * Math.SQRT1_2)),
  relu2: (x) => Math.max(x, 0) ** 2,
  swiglu: (x) => x * sigmoid(x),
};

/** Returns an MLP: x -> activation(x W_i) W_o, or (silu(x W_g) * (x W_i)) W_o for swiglu. */
function mlp(weights, path, model) {
  const [, hiddenSize] = weights.shape(`${path}.input.kernel`);
  const input = dense(weights, `${path}.input`, model.hidden_size, hiddenSize);
  const output = dense(weights, `${path}.output`, hiddenSize, model.hidden_size);
  const activation = ACTIVATIONS[model.mlp];
  if (model.mlp !== "swiglu") return (x) => output(input(x).map(activation));
  const gate = dense(weights, `${path}.gate`, model.hidden_size, hiddenSize);
  return (x) => {
    const gated = gate(x);
    return output(input(x).map((value, j) => activation(gated[j]) * value));
  };
}
