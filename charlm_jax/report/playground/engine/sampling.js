// SPDX-License-Identifier: Apache-2.0
// Truncation and the scale factor, as in charlm_jax/sampling. A truncation is a smallest logit;
// the scale comes last, so the characters that may be sampled do not depend on it.

/** Returns the logits with -Infinity for characters that top-k, top-p and min-p remove. */
function truncate(logits, { topK = 0, topP = 1, minP = 0 }) {
  if (topK === 0 && topP >= 1 && minP === 0) return logits;
  const left = Float32Array.from(logits).sort().reverse();
  let floor = -Infinity;
  const raise = (value) => {
    floor = Math.max(floor, value);
    for (let i = 0; i < left.length; i++) if (left[i] < floor) left[i] = -Infinity;
  };
  if (topK > 0) raise(left[Math.min(topK, left.length) - 1]);
  if (topP < 1) {
    let mass = 0;
    const masses = Float64Array.from(left, (logit) => (mass += Math.exp(logit - left[0])));
    raise(left[masses.findIndex((sum) => sum >= topP * mass)]);
  }
  if (minP > 0) raise(Math.fround(left[0] + Math.fround(Math.log(minP))));
  return Float32Array.from(logits, (logit) => (logit >= floor ? logit : -Infinity));
}

/** Samples an id from softmax(scale * logits) by the Gumbel-max trick; the first of equals. */
function choose(logits, noise, scale) {
  const towardLogits = Math.min(Math.fround(scale), 1);
  const towardNoise = Math.min(Math.fround(1 / Math.fround(scale)), 1);
  let best = -1;
  let bestScore = -Infinity;
  for (let id = 0; id < logits.length; id++) {
    if (logits[id] === -Infinity) continue;
    const score = Math.fround(
      Math.fround(logits[id] * towardLogits) + Math.fround(noise[id] * towardNoise),
    );
    if (score > bestScore || best < 0) [best, bestScore] = [id, score];
  }
  return best;
}

/** Returns the probability of every symbol at scale 1, as float64. */
function probabilities(logits) {
  return softmax(Float64Array.from(logits));
}

/**
 * Samples characters after a text that was read.
 *
 * @param {object} reader a reader that has read the text
 * @param {Float32Array} logits what it returned
 * @param {object} settings seed, index of the sample, scale, topK, topP, minP
 * @param {number} step number of sampled characters that the text ends with; the noise of a
 *   character depends on its number alone
 * @returns {function} next() samples and reads one character: {id, logits}, where the logits are
 *   those that it was sampled from. next(id) takes that one instead.
 */
function openSample(reader, logits, settings, step = 0) {
  const key = sampleKey(settings.seed, settings.index);
  let current = logits.slice();
  return (taken) => {
    const from = current;
    const id = taken ?? sampleId(from, key, step, settings);
    step++;
    current = reader.read(id).slice();
    return { id, logits: from };
  };
}

function sampleId(logits, key, step, settings) {
  return choose(truncate(logits, settings), gumbelNoise(key, step, logits.length), settings.scale);
}
