// SPDX-License-Identifier: Apache-2.0
// Attention, and what it knows of places.

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
