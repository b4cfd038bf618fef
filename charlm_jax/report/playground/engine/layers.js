// SPDX-License-Identifier: Apache-2.0
// Layers, one character at a time. A mixer has
//
//   size                     width of its output
//   start()                  a state before the first character
//   step(x, state)           output for one input; changes the state
//   project(x), mix(z, s)    the two halves of `step`, if it begins with a projection of x alone
//   units                    names of the state's arrays that have a number for each unit
//   heads                    number of attention heads
//   places                   number of positions that a head attends to
//
// Outputs are arrays of the layer that its next step overwrites. The equations are those of the
// files of the same names in charlm_jax/models.

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

/** Returns a function that makes an array of zeros for every name. */
function unitArrays(names, size) {
  return () => Object.fromEntries(names.map((name) => [name, new Float32Array(size)]));
}

const LSTM_UNITS = ["input_gate", "forget_gate", "candidate", "output_gate", "cell", "hidden"];
const GRU_UNITS = ["reset_gate", "update_gate", "candidate", "hidden"];
const MINGRU_UNITS = ["update_gate", "candidate", "hidden"];

function lstm(weights, path, model, inputs) {
  const size = model.hidden_size;
  return recurrent(weights, path, inputs, size, LSTM_UNITS, 4, (z, product, state) => {
    const { input_gate, forget_gate, candidate, output_gate, cell, hidden } = state;
    for (let j = 0; j < size; j++) {
      input_gate[j] = sigmoid(z[j] + product[j]);
      forget_gate[j] = sigmoid(z[size + j] + product[size + j]);
      candidate[j] = Math.tanh(z[2 * size + j] + product[2 * size + j]);
      output_gate[j] = sigmoid(z[3 * size + j] + product[3 * size + j]);
      cell[j] = forget_gate[j] * cell[j] + input_gate[j] * candidate[j];
      hidden[j] = output_gate[j] * Math.tanh(cell[j]);
    }
  });
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

function mingru(weights, path, model, inputs) {
  const size = model.hidden_size;
  const project = dense(weights, `${path}.input`, inputs, 2 * size);
  const start = unitArrays(MINGRU_UNITS, size);
  const mix = (z, { update_gate, candidate, hidden }) => {
    for (let j = 0; j < size; j++) {
      const raw = z[size + j];
      update_gate[j] = sigmoid(z[j]);
      candidate[j] = raw >= 0 ? raw + 0.5 : sigmoid(raw);
      hidden[j] = sigmoid(-z[j]) * hidden[j] + update_gate[j] * candidate[j];
    }
    return hidden;
  };
  const step = (x, state) => mix(project(x), state);
  return { size, units: MINGRU_UNITS, start, project, mix, step };
}

/** Attention over the last positions, whose keys and values lie in a ring of `places`. */
function attend({ heads, kvHeads, width, scale, places, position }) {
  const groups = heads / kvHeads;
  const out = new Float32Array(heads * width);
  const start = () => ({
    keys: new Float32Array(places * kvHeads * width),
    values: new Float32Array(places * kvHeads * width),
    weights: new Float32Array(heads * places), // of the last character, by head and place
    read: 0,
    places,
  });
  const step = (query, key, value, state) => {
    const now = state.read++;
    const count = Math.min(state.read, places);
    const turned = position.rotate(query, width, now);
    state.keys.set(position.rotate(key, width, now), (now % places) * key.length);
    state.values.set(value, (now % places) * value.length);
    out.fill(0);
    for (let head = 0; head < heads; head++) {
      const shared = Math.floor(head / groups) * width;
      const scores = state.weights.subarray(head * places, head * places + count);
      for (let place = 0; place < count; place++) {
        let sum = 0;
        for (let k = 0, at = place * key.length + shared; k < width; k++) {
          sum += turned[head * width + k] * state.keys[at++];
        }
        const distance = (now - place) % places; // of a ring's places, the one before is 1 away
        scores[place] = scale * sum + position.bias(distance, head, heads);
      }
      softmax(scores);
      for (let k = 0; k < width; k++) {
        let sum = 0;
        for (let place = 0; place < count; place++) {
          sum += scores[place] * state.values[place * value.length + shared + k];
        }
        out[head * width + k] = sum;
      }
    }
    return out;
  };
  return { start, step };
}

/** Returns the attention weights of a head for the last character, then the one before, ... */
function weightsByDistance({ weights, read, places }, head) {
  const count = Math.min(read, places);
  const now = read - 1;
  return Float32Array.from({ length: count }, (_, distance) => {
    return weights[head * places + ((now - distance) % places)];
  });
}

/** Returns the number of positions that a layer attends to, its own included. */
function placesOf(model, context) {
  return Math.min(context + 1, model.window || Infinity);
}

function attention(weights, path, model, inputs, context) {
  const size = model.hidden_size;
  const heads = model.heads;
  const kvHeads = model.kv_heads || heads;
  const width = size / heads;
  const query = dense(weights, `${path}.query`, inputs, size);
  const key = dense(weights, `${path}.key`, inputs, kvHeads * width);
  const value = dense(weights, `${path}.value`, inputs, kvHeads * width);
  const output = dense(weights, `${path}.output`, size, size);
  const normOf = (name) =>
    model.qk_norm ? norm(weights, `${path}.${name}`, "rms_norm", width) : (x) => x;
  const [queryNorm, keyNorm] = [normOf("query_norm"), normOf("key_norm")];
  const places = placesOf(model, context);
  const core = attend({
    heads, kvHeads, width, scale: width ** -0.5, places, position: positionOf(model),
  });
  const step = (x, state) =>
    output(core.step(queryNorm(query(x)), keyNorm(key(x)), value(x), state));
  return { size, heads, places, start: core.start, step };
}

function selfAttention(weights, path, model, inputs, context) {
  const places = placesOf(model, context);
  const core = attend({
    heads: 1, kvHeads: 1, width: inputs, scale: 1, places, position: positionOf(model),
  });
  const step = (x, state) => core.step(x, x, x, state);
  return { size: inputs, heads: 1, places, start: core.start, step };
}

const MIXERS = { lstm, gru, rnn, mingru, attention, self_attention: selfAttention };

/** Returns a position encoding: what it does to queries and keys, and what it adds to a score. */
function positionOf(model) {
  const unchanged = (x) => x;
  const nothing = () => 0;
  switch (model.position) {
    case "rotary":
      return { rotate: rotatePairs, bias: nothing };
    case "alibi":
      return {
        rotate: unchanged,
        bias: (distance, head, heads) => -(2 ** ((-8 * (head + 1)) / heads)) * distance,
      };
    default:
      return { rotate: unchanged, bias: nothing };
  }
}

/** Radians per position of pair j of a vector, as float32. */
function frequency(j, width) {
  return Math.fround(10000 ** ((-2 * j) / width));
}

/** Rotates the pairs (x_j, x_(j + width / 2)) of every head by angles that grow with the place. */
function rotatePairs(x, width, place) {
  const turned = new Float32Array(x.length);
  const half = width / 2;
  for (let j = 0; j < half; j++) {
    const angle = place * frequency(j, width);
    const [cos, sin] = [Math.fround(Math.cos(angle)), Math.fround(Math.sin(angle))];
    for (let at = j; at < x.length; at += width) {
      turned[at] = x[at] * cos - x[at + half] * sin;
      turned[at + half] = x[at + half] * cos + x[at] * sin;
    }
  }
  return turned;
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
