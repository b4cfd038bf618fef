// SPDX-License-Identifier: Apache-2.0
// Arrays are Float32Arrays; sums are computed in double precision and rounded once.
//
// A kernel is stored by output, (outputs, inputs): each output is a dot product of consecutive
// numbers. The files of a model store it by input, as JAX computes x W.

/** Decodes base64 without white space into bytes. */
function decodeBase64(text) {
  const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const values = new Uint8Array(128);
  for (let i = 0; i < 64; i++) values[alphabet.charCodeAt(i)] = i;
  const padding = text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0;
  const bytes = new Uint8Array((text.length / 4) * 3 - padding);
  for (let from = 0, to = 0; from < text.length; from += 4) {
    const word =
      (values[text.charCodeAt(from)] << 18) |
      (values[text.charCodeAt(from + 1)] << 12) |
      (values[text.charCodeAt(from + 2)] << 6) |
      values[text.charCodeAt(from + 3)];
    bytes[to++] = word >> 16; // a write past the end does nothing
    bytes[to++] = word >> 8;
    bytes[to++] = word;
  }
  return bytes;
}

/** Returns the kernel (inputs, outputs) stored by output. */
function byOutput(kernel, inputs, outputs) {
  const turned = new Float32Array(kernel.length);
  for (let i = 0; i < inputs; i++) {
    for (let o = 0; o < outputs; o++) turned[o * inputs + i] = kernel[i * outputs + o];
  }
  return turned;
}

/**
 * Computes out = x W (+ bias); nearly all of a model's time is spent here. With eight sums at a
 * time the processor need not wait for each addition, and reads x an eighth as often.
 */
function multiply(out, kernel, x, bias) {
  const n = x.length;
  let o = 0;
  for (let at = 0; o + 8 <= out.length; o += 8, at += 8 * n) {
    let s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
    for (let i = 0; i < n; i++) {
      const value = x[i];
      s0 += value * kernel[at + i];
      s1 += value * kernel[at + i + n];
      s2 += value * kernel[at + i + 2 * n];
      s3 += value * kernel[at + i + 3 * n];
      s4 += value * kernel[at + i + 4 * n];
      s5 += value * kernel[at + i + 5 * n];
      s6 += value * kernel[at + i + 6 * n];
      s7 += value * kernel[at + i + 7 * n];
    }
    [out[o], out[o + 1], out[o + 2], out[o + 3]] = [s0, s1, s2, s3];
    [out[o + 4], out[o + 5], out[o + 6], out[o + 7]] = [s4, s5, s6, s7];
  }
  for (; o < out.length; o++) {
    let sum = 0;
    for (let i = 0, at = o * n; i < n; i++) sum += x[i] * kernel[at++];
    out[o] = sum;
  }
  if (bias) for (let j = 0; j < out.length; j++) out[j] += bias[j];
}

function sigmoid(x) {
  return 1 / (1 + Math.exp(-x));
}

/** log(1 + exp(x)) */
function softplus(x) {
  return Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
}

/** The error function, by a series of positive terms; 1 beyond 4.5 (to float32's precision). */
function erf(x) {
  if (Math.abs(x) > 4.5) return Math.sign(x);
  let term = x;
  let sum = x;
  for (let n = 1; Math.abs(term) > 1e-10 * Math.abs(sum); n++) {
    term *= (2 * x * x) / (2 * n + 1);
    sum += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

/** Replaces scores by their softmax. */
function softmax(scores) {
  let best = -Infinity;
  for (const score of scores) if (score > best) best = score;
  let sum = 0;
  for (let i = 0; i < scores.length; i++) sum += scores[i] = Math.exp(scores[i] - best);
  for (let i = 0; i < scores.length; i++) scores[i] /= sum;
  return scores;
}

/** Returns a copy of nested plain objects and arrays; typed arrays are copied, not shared. */
function copyTree(tree) {
  if (ArrayBuffer.isView(tree)) return tree.slice();
  if (Array.isArray(tree)) return tree.map(copyTree);
  if (tree === null || typeof tree !== "object") return tree;
  return Object.fromEntries(Object.entries(tree).map(([name, value]) => [name, copyTree(value)]));
}
