// SPDX-License-Identifier: Apache-2.0
// Layers whose state is a matrix for each head, (keys, values): Gated DeltaNet, Mamba 2 and mLSTM.

const DELTANET_UNITS = ["forget_gate", "rate_gate", "hidden"];
const MAMBA_UNITS = ["forget_gate", "hidden"];
const MLSTM_UNITS = ["forget_gate", "output_gate", "hidden"];

/** Adds a value under a key to a memory, which it multiplies by a number before. */
function remember(memory, keep, key, value) {
  for (let k = 0, at = 0; k < key.length; k++) {
    for (let p = 0; p < value.length; p++, at++) {
      memory[at] = keep * memory[at] + key[k] * value[p];
    }
  }
}

/** Computes the sum of a memory's values, weighted by the products of a query and their keys. */
function recall(out, memory, query) {
  const sums = new Float64Array(out.length);
  for (let k = 0, at = 0; k < query.length; k++) {
    for (let p = 0; p < sums.length; p++, at++) sums[p] += query[k] * memory[at];
  }
  out.set(sums);
}

/** Returns a function (z, head) -> step size and kept share of a head's memory. */
function memoryDecay(weights, path, heads) {
  const stepBias = weights.at(`${path}.step_bias`, [heads]);
  const rateBias = weights.at(`${path}.rate_bias`, [heads]);
  return (z, head) => {
    const size = softplus(z + stepBias[head]);
    return { size, keep: Math.exp(-Math.exp(rateBias[head]) * size) };
  };
}

/** Returns a function that gives the part of an array that belongs to a head. */
function partOf(array, width) {
  return (head) => array.subarray(head * width, (head + 1) * width);
}

function unitVector(x) {
  let squares = 0;
  for (const value of x) squares += value * value;
  const factor = 1 / Math.sqrt(squares + 1e-6);
  return x.map((value) => value * factor);
}

const silu = (x) => x * sigmoid(x);

function gatedDeltaNet(weights, path, model, inputs) {
  const { hidden_size: size, heads, conv_width: positions } = model;
  const width = size / heads;
  const project = dense(weights, `${path}.input`, inputs, 4 * size + 2 * heads);
  const convolution = shortConvolution(weights, `${path}.convolution`, 3 * size, positions);
  const decay = memoryDecay(weights, `${path}.decay`, heads);
  const normalize = norm(weights, `${path}.norm`, "rms_norm", width);
  const output = dense(weights, `${path}.output`, size, size);
  const [value, read] = [new Float32Array(width), new Float32Array(size)];
  const zeros = unitArrays(DELTANET_UNITS, size);
  const start = () => ({
    ...zeros(), past: convolution.start(), memory: new Float32Array(size * width),
  });
  const mix = (z, state) => {
    const { forget_gate, rate_gate, hidden, past } = state;
    const convolved = convolution.apply(z.subarray(0, 3 * size), past).map(silu);
    const queries = partOf(convolved.subarray(0, size), width);
    const keys = partOf(convolved.subarray(size, 2 * size), width);
    const values = partOf(convolved.subarray(2 * size), width);
    const [keeps, rates, outs] = [forget_gate, rate_gate, read].map((x) => partOf(x, width));
    const memories = partOf(state.memory, width * width);
    for (let head = 0; head < heads; head++) {
      const [memory, key, wanted] = [memories(head), unitVector(keys(head)), values(head)];
      const { keep } = decay(z[4 * size + head], head);
      const rate = sigmoid(z[4 * size + heads + head]);
      recall(value, memory, key);
      for (let p = 0; p < width; p++) value[p] = rate * (wanted[p] - keep * value[p]);
      remember(memory, keep, key, value);
      recall(outs(head), memory, unitVector(queries(head)));
      keeps(head).fill(keep);
      rates(head).fill(rate);
    }
    hidden.set(normalize(read));
    return output(hidden.map((each, j) => each * silu(z[3 * size + j])));
  };
  const step = (x, state) => mix(project(x), state);
  return { size, units: DELTANET_UNITS, start, project, mix, step };
}

function mamba2(weights, path, model, inputs) {
  const { hidden_size: size, heads, state_size: keyWidth, conv_width: positions } = model;
  const inner = 2 * size;
  const width = inner / heads;
  const channels = inner + 2 * keyWidth;
  const project = dense(weights, `${path}.input`, inputs, inner + channels + heads);
  const convolution = shortConvolution(weights, `${path}.convolution`, channels, positions);
  const decay = memoryDecay(weights, `${path}.decay`, heads);
  const skip = weights.at(`${path}.skip_scale`, [heads]);
  const normalize = norm(weights, `${path}.norm`, "rms_norm", inner);
  const output = dense(weights, `${path}.output`, inner, size);
  const zeros = unitArrays(MAMBA_UNITS, inner);
  const start = () => ({
    ...zeros(), past: convolution.start(), memory: new Float32Array(inner * keyWidth),
  });
  const mix = (z, state) => {
    const { hidden, past } = state;
    const convolved = convolution.apply(z.subarray(inner, inner + channels), past).map(silu);
    const values = partOf(convolved, width);
    const key = convolved.subarray(inner, inner + keyWidth);
    const query = convolved.subarray(inner + keyWidth);
    const [gates, outs] = [partOf(state.forget_gate, width), partOf(hidden, width)];
    const memories = partOf(state.memory, keyWidth * width);
    for (let head = 0; head < heads; head++) {
      const value = values(head);
      const [memory, out] = [memories(head), outs(head)];
      const { size: stepSize, keep } = decay(z[inner + channels + head], head);
      remember(memory, keep, key, value.map((each) => stepSize * each));
      recall(out, memory, query);
      for (let p = 0; p < width; p++) out[p] += skip[head] * value[p];
      gates(head).fill(keep);
    }
    return output(normalize(hidden.map((each, j) => each * silu(z[j]))));
  };
  const step = (x, state) => mix(project(x), state);
  return { size, width: inner, units: MAMBA_UNITS, start, project, mix, step };
}

/** An LSTM with a matrix as its cell, stored times exp(-stabilizer); its last value counts. */
function mlstm(weights, path, model, inputs) {
  const { hidden_size: size, heads, conv_width: positions } = model;
  const width = size / heads;
  const project = dense(weights, `${path}.input`, inputs, 4 * size + 2 * heads);
  const convolution = shortConvolution(weights, `${path}.convolution`, 2 * size, positions);
  const normalize = norm(weights, `${path}.norm`, "layer_norm", width);
  const output = dense(weights, `${path}.output`, size, size);
  const [value, read] = [new Float32Array(width + 1), new Float32Array(width + 1)];
  const zeros = unitArrays(MLSTM_UNITS, size);
  const start = () => ({
    ...zeros(),
    past: convolution.start(),
    memory: new Float32Array(size * (width + 1)),
    stabilizer: new Float32Array(heads),
  });
  const mix = (z, state) => {
    const { output_gate, hidden, stabilizer, past } = state;
    let convolved = convolution.apply(z.subarray(0, 2 * size), past);
    if (positions > 0) convolved = convolved.map(silu);
    const queries = partOf(convolved.subarray(0, size), width);
    const keys = partOf(convolved.subarray(size), width);
    const values = partOf(z.subarray(2 * size, 3 * size), width);
    const [gates, outs] = [partOf(state.forget_gate, width), partOf(hidden, width)];
    const memories = partOf(state.memory, width * (width + 1));
    for (let head = 0; head < heads; head++) {
      const input = z[4 * size + head];
      const logForget = -softplus(-z[4 * size + heads + head]);
      const before = stabilizer[head];
      const after = Math.fround(Math.max(logForget + before, input, 0));
      value.set(values(head));
      value[width] = 1;
      const added = value.map((each) => each * Math.exp(input - after));
      const key = keys(head).map((each) => each / Math.sqrt(width));
      remember(memories(head), Math.exp(logForget + before - after), key, added);
      recall(read, memories(head), queries(head));
      const divisor = Math.max(Math.abs(read[width]), Math.exp(-after), 1e-12);
      outs(head).set(read.subarray(0, width).map((each) => each / divisor));
      gates(head).fill(sigmoid(z[4 * size + heads + head]));
      stabilizer[head] = after;
    }
    for (let j = 0; j < size; j++) output_gate[j] = sigmoid(z[3 * size + j]);
    return output(normalize(hidden).map((each, j) => each * output_gate[j]));
  };
  const step = (x, state) => mix(project(x), state);
  return { size, units: MLSTM_UNITS, start, project, mix, step };
}
