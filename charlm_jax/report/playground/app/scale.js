// SPDX-License-Identifier: Apache-2.0
// Scale factors of the slider, about equal ratios apart: uniform, then 0.25 to 5, then greedy.

const SCALES = [
  0, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.4, 1.6, 1.8, 2,
  2.25, 2.5, 2.8, 3.2, 3.6, 4, 4.5, 5, Infinity,
];

/** Describes a scale, with its temperature; `noun` is a character or a byte. */
function describeScale(scale, noun) {
  if (scale === 0) return `scale 0 · uniform over all ${noun}s`;
  if (scale === Infinity) return `greedy · always the most probable ${noun}`;
  return `scale ${scale} · temperature ${+(1 / scale).toFixed(2)}`;
}
