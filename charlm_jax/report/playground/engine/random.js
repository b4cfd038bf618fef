// SPDX-License-Identifier: Apache-2.0
// Random numbers as JAX makes them: Threefry 2x32 with partitionable bits, and Gumbel noise of 23
// random bits (jax.random.gumbel in its mode "low"). Source: Salmon et al. 2011.
//
// A key is two 32-bit words. The same seed, sample and step give the noise of `charlm sample`.

const ROTATIONS = [
  [13, 15, 26, 6],
  [17, 29, 16, 24],
];
const SAMPLING_STREAM = 3; // KeyStream.SAMPLING

/** Encrypts the counter (hi, lo) with a key of two words; returns two words. */
function threefry(key, hi, lo) {
  const words = [key[0], key[1], key[0] ^ key[1] ^ 0x1bd11bda];
  let a = (hi + words[0]) | 0;
  let b = (lo + words[1]) | 0;
  for (let group = 0; group < 5; group++) {
    for (const bits of ROTATIONS[group % 2]) {
      a = (a + b) | 0;
      b = ((b << bits) | (b >>> (32 - bits))) ^ a;
    }
    a = (a + words[(group + 1) % 3]) | 0;
    b = (b + words[(group + 2) % 3] + group + 1) | 0;
  }
  return [a >>> 0, b >>> 0];
}

/** Returns the key of a number under a key, as jax.random.fold_in does. */
function foldIn(key, number) {
  return threefry(key, 0, number);
}

/** Returns the key of a sample: of its seed and its index among the samples. */
function sampleKey(seed, index) {
  return foldIn(foldIn([0, seed], SAMPLING_STREAM), index);
}

/** Returns `count` uniform words of 32 bits. */
function randomBits(key, count) {
  const bits = new Uint32Array(count);
  for (let i = 0; i < count; i++) {
    const [hi, lo] = threefry(key, 0, i);
    bits[i] = hi ^ lo;
  }
  return bits;
}

/** Returns float32 numbers in (0, 1), multiples of 2^-23 except for the smallest. */
function uniform(key, count) {
  const smallest = 2 ** -126;
  return Float32Array.from(randomBits(key, count), (word) =>
    Math.max((word >>> 9) * 2 ** -23, smallest),
  );
}

/** Returns standard Gumbel noise, -log(-log(u)), of one step of a sample. */
function gumbelNoise(key, step, count) {
  const noise = uniform(foldIn(key, step), count);
  for (let i = 0; i < count; i++) {
    noise[i] = -Math.log(-Math.fround(Math.log(noise[i])));
  }
  return noise;
}
