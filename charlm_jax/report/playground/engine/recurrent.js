// SPDX-License-Identifier: Apache-2.0
// Layers whose gates see the state: LSTM, sLSTM, GRU and RNN.

const LSTM_UNITS = ["input_gate", "forget_gate", "candidate", "output_gate", "cell", "hidden"];
const GRU_UNITS = ["reset_gate", "update_gate", "candidate", "hidden"];

/** A mixer that adds x W + b, projected before, to h U and applies its gates. */
function recurrent(weights, path, inputs, size, units, gates, apply) {
  const project = dense(weights, `${path}.input`, inputs, gates * size);
  const kernel = byOutput(
    weights.at(`${path}.recurrent_kernel`, [size, gates * size]), size, gates * size,
  );
  const product = new Float32Array(gates * size);
  const start = unitArrays(units, size);
  const mix = (z, state) => {
    multiply(product, kernel, state.hidden, null);
    apply(z, product, state);
    return state.hidden;
  };
  return { size, units, start, project, mix, step: (x, state) => mix(project(x), state) };
}

function lstm(weights, path, model, inputs) {
  if (model.mogrifier_rounds) return mogrifier(weights, path, model, inputs);
  const size = model.hidden_size;
  return recurrent(weights, path, inputs, size, LSTM_UNITS, 4, (z, product, state) => {
    for (let j = 0; j < z.length; j++) product[j] += z[j];
    applyLSTM(product, size, state);
  });
}

/** Computes an LSTM's gates and its new state. */
function applyLSTM(z, size, { input_gate, forget_gate, candidate, output_gate, cell, hidden }) {
  for (let j = 0; j < size; j++) {
    input_gate[j] = sigmoid(z[j]);
    forget_gate[j] = sigmoid(z[size + j]);
    candidate[j] = Math.tanh(z[2 * size + j]);
    output_gate[j] = sigmoid(z[3 * size + j]);
    cell[j] = forget_gate[j] * cell[j] + input_gate[j] * candidate[j];
    hidden[j] = output_gate[j] * Math.tanh(cell[j]);
  }
}

/** An LSTM whose input and state modulate each other first. */
function mogrifier(weights, path, model, inputs) {
  const size = model.hidden_size;
  const at = (name, from, to) => byOutput(weights.at(`${path}.${name}`, [from, to]), from, to);
  const inputKernel = at("input_kernel", inputs, 4 * size);
  const recurrentKernel = at("recurrent_kernel", size, 4 * size);
  const bias = weights.at(`${path}.bias`, [4 * size]);
  const rounds = Array.from({ length: model.mogrifier_rounds }, (_, index) => {
    const [from, to] = index % 2 === 0 ? [size, inputs] : [inputs, size];
    return { kernel: at(`round_${index + 1}_kernel`, from, to), out: new Float32Array(to) };
  });
  const [z, product] = [new Float32Array(4 * size), new Float32Array(4 * size)];
  const step = (x, state) => {
    let h = state.hidden;
    for (const [index, { kernel, out }] of rounds.entries()) {
      const isInput = index % 2 === 0;
      const changed = isInput ? x : h;
      multiply(out, kernel, isInput ? h : x, null);
      const modulated = changed.map((value, j) => 2 * sigmoid(out[j]) * value);
      if (isInput) x = modulated;
      else h = modulated;
    }
    multiply(product, recurrentKernel, h, null);
    multiply(z, inputKernel, x, bias);
    for (let j = 0; j < z.length; j++) z[j] += product[j];
    applyLSTM(z, size, state);
    return state.hidden;
  };
  return { size, units: LSTM_UNITS, start: unitArrays(LSTM_UNITS, size), step };
}


/** An LSTM with exponential gates. Its sums are stored times exp(-stabilizer). */
function slstm(weights, path, model, inputs) {
  const { hidden_size: size, heads } = model;
  const width = size / heads;
  const project = dense(weights, `${path}.input`, inputs, 4 * size);
  const kernels = headKernels(weights, `${path}.recurrent_kernel`, heads, width, 4 * width);
  const product = new Float32Array(4 * width);
  const zeros = unitArrays([...LSTM_UNITS, "sum", "normalizer", "stabilizer"], size);
  const mix = (z, state) => {
    const { input_gate, forget_gate, candidate, output_gate, cell, hidden } = state;
    const { sum, normalizer, stabilizer } = state;
    for (const [head, kernel] of kernels.entries()) {
      const from = head * width;
      multiply(product, kernel, hidden.subarray(from, from + width), null);
      for (let k = 0, j = from; k < width; k++, j++) {
        const logForget = -softplus(-(z[size + j] + product[width + k]));
        const input = z[j] + product[k];
        const before = normalizer[j] > 0 ? stabilizer[j] : -Infinity; // nothing was read
        const after = Math.max(logForget + before, input);
        forget_gate[j] = Math.exp(logForget + before - after);
        input_gate[j] = Math.exp(input - after);
        candidate[j] = Math.tanh(z[2 * size + j] + product[2 * width + k]);
        output_gate[j] = sigmoid(z[3 * size + j] + product[3 * width + k]);
        sum[j] = forget_gate[j] * sum[j] + input_gate[j] * candidate[j];
        normalizer[j] = forget_gate[j] * normalizer[j] + input_gate[j];
        stabilizer[j] = after;
        cell[j] = sum[j] / normalizer[j];
        hidden[j] = output_gate[j] * cell[j];
      }
    }
    return hidden;
  };
  const step = (x, state) => mix(project(x), state);
  return { size, units: LSTM_UNITS, start: zeros, project, mix, step };
}

function gru(weights, path, model, inputs) {
  const size = model.hidden_size;
  const bias = weights.at(`${path}.candidate_bias`, [size]);
  return recurrent(weights, path, inputs, size, GRU_UNITS, 3, (z, product, state) => {
    const { reset_gate, update_gate, candidate, hidden } = state;
    for (let j = 0; j < size; j++) {
      reset_gate[j] = sigmoid(z[j] + product[j]);
      update_gate[j] = sigmoid(z[size + j] + product[size + j]);
      candidate[j] = Math.tanh(
        z[2 * size + j] + reset_gate[j] * (product[2 * size + j] + bias[j]),
      );
      hidden[j] = (1 - update_gate[j]) * candidate[j] + update_gate[j] * hidden[j];
    }
  });
}

function rnn(weights, path, model, inputs) {
  const size = model.hidden_size;
  return recurrent(weights, path, inputs, size, ["hidden"], 1, (z, product, { hidden }) => {
    for (let j = 0; j < size; j++) hidden[j] = Math.tanh(z[j] + product[j]);
  });
}
