// SPDX-License-Identifier: Apache-2.0
// A model: embedding, a stack of blocks, and a linear output layer, as in
// charlm_jax/models/language_model.py.

// How arrays of each precision are read, as float32.
const NUMBERS = {
  float32: (buffer, { offset }, size) => new Float32Array(buffer, offset, size),
  // The upper half of a float32's bits; the lower half is 0.
  bfloat16: (buffer, { offset }, size) => {
    const halves = new Uint16Array(buffer, offset, size);
    const words = new Uint32Array(size);
    for (let i = 0; i < size; i++) words[i] = halves[i] << 16;
    return new Float32Array(words.buffer);
  },
  // Multiples of a scale for every column.
  int8: (buffer, { offset, shape, scales }, size) => {
    const columns = shape[shape.length - 1];
    const scale = new Float32Array(buffer, scales, columns);
    const values = new Int8Array(buffer, offset, size);
    const numbers = new Float32Array(size);
    for (let i = 0; i < size; i++) numbers[i] = values[i] * scale[i % columns];
    return numbers;
  },
};

/** Returns the weights by name; a missing one, or one of another shape, is an error. */
function openWeights(tensors, buffer) {
  const table = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const find = (name) => {
    if (!table.has(name)) throw new Error(`the model has no weights ${name}`);
    return table.get(name);
  };
  const at = (name, shape) => {
    const tensor = find(name);
    if (`${tensor.shape}` !== `${shape}`) {
      throw new Error(`${name} has the shape ${tensor.shape}, not ${shape}`);
    }
    const size = shape.reduce((product, n) => product * n, 1);
    return NUMBERS[tensor.precision](buffer, tensor, size);
  };
  return { has: (name) => table.has(name), shape: (name) => find(name).shape, at };
}

/**
 * Builds a model.
 *
 * @param {object} model section `model` of the config
 * @param {number} symbols size of the vocabulary
 * @param {object} weights weights, from `openWeights`
 * @param {number} context number of past positions that attention keeps
 * @returns {object} start() is a state before the first character. step(id, state) reads a
 *   character and returns the logits of the next, in an array that the next call overwrites.
 *   layers says what can be seen of each layer; look(state) copies it, after the last character.
 */
function buildModel(model, symbols, weights, context) {
  const width = model.embedding_size;
  const table = weights.at("embedding", [symbols, width]);
  const row = (id) => table.subarray(id * width, (id + 1) * width);
  const embed = embedder(model, weights, row);
  const blocks = [];
  const layers = [];
  let inputs = width;
  for (const [index, name] of model.layers.entries()) {
    const path = `layer_${index}`;
    const mixer = MIXERS[name](weights, `${path}.mixer`, model, inputs, context);
    blocks.push(block(mixer, weights, path, model));
    const { size, width: unitCount = size, units = [], heads = 0, places = 0 } = mixer;
    layers.push({ name, size: unitCount, units, heads, places });
    inputs = size;
  }
  const finish =
    model.block === "pre_norm" ? norm(weights, "norm", model.norm, inputs) : (x) => x;
  const output = outputLayer(model, symbols, weights, table, inputs);

  // What the first layer adds for a symbol is the same at every place, unless places are counted.
  const first = blocks[0];
  const isTabled = first.project !== undefined && !countsPlaces(model);
  const projected = new Array(symbols);

  const start = () => ({ read: 0, layers: blocks.map((each) => each.start()) });
  const step = (id, state) => {
    let x;
    if (isTabled) {
      projected[id] ??= first.project(row(id)).slice();
      x = first.mix(projected[id], state.layers[0]);
    } else {
      x = first.step(embed(id, state.read), state.layers[0]);
    }
    for (let index = 1; index < blocks.length; index++) {
      x = blocks[index].step(x, state.layers[index]);
    }
    state.read++;
    return output(finish(x));
  };
  const look = (state) =>
    layers.map(({ units, heads }, index) => {
      const layer = state.layers[index];
      return {
        units: Object.fromEntries(units.map((name) => [name, layer[name].slice()])),
        heads: Array.from({ length: heads }, (_, head) => weightsByDistance(layer, head)),
      };
    });
  return { symbols, layers, start, step, look };
}

function countsPlaces(model) {
  return model.position === "learned" || model.position === "sinusoidal";
}

/** Returns a function (id, place) -> the input of the first layer. */
function embedder(model, weights, row) {
  const width = model.embedding_size;
  if (model.position === "learned") {
    const places = weights.at("position", [model.max_length, width]);
    return (id, place) => {
      if (place >= model.max_length) {
        throw new Error(`the model ends at ${model.max_length} characters`);
      }
      return row(id).map((value, j) => value + places[place * width + j]);
    };
  }
  if (model.position === "sinusoidal") {
    const factor = Math.fround(Math.sqrt(width));
    const half = Math.ceil(width / 2);
    return (id, place) =>
      row(id).map((value, j) => {
        const angle = Math.fround(place * frequency(j % half, width));
        return value * factor + (j < half ? Math.sin(angle) : Math.cos(angle));
      });
  }
  return (id) => row(id);
}

/** Puts norms, residual stream and MLP around a mixer; a bare block is the mixer itself. */
function block(mixer, weights, path, model) {
  if (model.block === "bare") return mixer;
  const size = model.hidden_size;
  const isFirst = model.block === "pre_norm";
  const add = (x, added) => x.map((value, j) => value + added[j]);
  const around = (name, branch) => {
    const normalize = norm(weights, `${path}.${name}`, model.norm, size);
    return isFirst
      ? (x, state) => add(x, branch(normalize(x), state))
      : (x, state) => normalize(add(x, branch(x, state)));
  };
  const mix = around("mixer_norm", mixer.step);
  if (model.mlp === "none") return { size, start: mixer.start, step: mix };
  const feed = around("mlp_norm", mlp(weights, `${path}.mlp`, model));
  return { size, start: mixer.start, step: (x, state) => feed(mix(x, state)) };
}

function outputLayer(model, symbols, weights, table, inputs) {
  if (!model.tied_embedding) return dense(weights, "output", inputs, symbols);
  const logits = new Float32Array(symbols);
  return (x) => {
    multiply(logits, table, x, null); // the table is stored by output already
    return logits;
  };
}

/**
 * Returns a reader of characters: read(id) returns the logits of the next character.
 *
 * @param {object} model a model, from `buildModel`
 * @param {number} window number of last characters that are read again for every new one; 0 to
 *   carry the state instead
 */
function openReader(model, window) {
  let state = model.start();
  let last = [];
  const read = (id) => {
    if (window > 0) {
      last.push(id);
      if (last.length > window) {
        last = last.slice(-window);
        state = model.start();
        for (const before of last.slice(0, -1)) model.step(before, state);
      }
    }
    return model.step(id, state);
  };
  const copy = () => {
    const other = openReader(model, window);
    other.restore(copyTree(state), [...last]);
    return other;
  };
  const restore = (newState, newLast) => {
    [state, last] = [newState, newLast];
  };
  return { read, copy, restore, look: () => model.look(state) };
}
