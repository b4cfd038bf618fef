// SPDX-License-Identifier: Apache-2.0
// Layers whose gates do not see the state: minGRU, minLSTM and RG-LRU.

const MINGRU_UNITS = ["update_gate", "candidate", "hidden"];
const MINLSTM_UNITS = ["forget_gate", "input_gate", "candidate", "hidden"];
const RGLRU_UNITS = ["recurrence_gate", "input_gate", "hidden"];

function mingru(weights, path, model, inputs) {
  const size = model.hidden_size;
  const project = dense(weights, `${path}.input`, inputs, 2 * size);
  const start = unitArrays(MINGRU_UNITS, size);
  const mix = (z, { update_gate, candidate, hidden }) => {
    for (let j = 0; j < size; j++) {
      update_gate[j] = sigmoid(z[j]);
      candidate[j] = positiveCandidate(z[size + j]);
      hidden[j] = sigmoid(-z[j]) * hidden[j] + update_gate[j] * candidate[j];
    }
    return hidden;
  };
  const step = (x, state) => mix(project(x), state);
  return { size, units: MINGRU_UNITS, start, project, mix, step };
}

function positiveCandidate(x) {
  return x >= 0 ? x + 0.5 : sigmoid(x);
}

function minlstm(weights, path, model, inputs) {
  const size = model.hidden_size;
  const project = dense(weights, `${path}.input`, inputs, 3 * size);
  const start = unitArrays(MINLSTM_UNITS, size);
  const mix = (z, { forget_gate, input_gate, candidate, hidden }) => {
    for (let j = 0; j < size; j++) {
      const logit = softplus(-z[j]) - softplus(-z[size + j]); // of i / (f + i)
      forget_gate[j] = sigmoid(-logit);
      input_gate[j] = sigmoid(logit);
      candidate[j] = positiveCandidate(z[2 * size + j]);
      hidden[j] = forget_gate[j] * hidden[j] + input_gate[j] * candidate[j];
    }
    return hidden;
  };
  const step = (x, state) => mix(project(x), state);
  return { size, units: MINLSTM_UNITS, start, project, mix, step };
}

function rglru(weights, path, model, inputs) {
  const { hidden_size: size, heads } = model;
  const width = size / heads;
  const project = dense(weights, `${path}.input`, inputs, 2 * size);
  const convolution = shortConvolution(weights, `${path}.convolution`, size, model.conv_width);
  const kernels = headKernels(weights, `${path}.gate_kernel`, heads, width, 2 * width);
  const bias = weights.at(`${path}.gate_bias`, [2, size]);
  const decay = weights.at(`${path}.decay_bias`, [size]);
  const output = dense(weights, `${path}.output`, size, size);
  const product = new Float32Array(2 * width);
  const gated = new Float32Array(size);
  const zeros = unitArrays(RGLRU_UNITS, size);
  const start = () => ({ ...zeros(), past: convolution.start() });
  const mix = (z, state) => {
    const { recurrence_gate, input_gate, hidden } = state;
    const branch = convolution.apply(z.subarray(0, size), state.past);
    for (const [head, kernel] of kernels.entries()) {
      const from = head * width;
      multiply(product, kernel, branch.subarray(from, from + width), null);
      for (let k = 0, j = from; k < width; k++, j++) {
        recurrence_gate[j] = sigmoid(product[k] + bias[j]);
        input_gate[j] = sigmoid(product[width + k] + bias[size + j]);
        const logKeep = -8 * softplus(-decay[j]) * recurrence_gate[j];
        const scale = Math.sqrt(Math.max(-Math.expm1(2 * logKeep), 1e-30));
        hidden[j] = Math.exp(logKeep) * hidden[j] + scale * input_gate[j] * branch[j];
        gated[j] = ACTIVATIONS.gelu(z[size + j]) * hidden[j];
      }
    }
    return output(gated);
  };
  const step = (x, state) => mix(project(x), state);
  return { size, units: RGLRU_UNITS, start, project, mix, step };
}
