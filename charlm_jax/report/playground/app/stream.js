// SPDX-License-Identifier: Apache-2.0
// Work in slices, between which the browser draws and answers.

const SLICE_MS = 24;

/**
 * Shows what a generator yields, slice by slice.
 *
 * @param {Iterable} items what to show; to take the next may be slow
 * @param {function} show called with the items of a slice
 * @param {function} isWanted whether to go on after a slice
 * @returns {Promise<number|null>} seconds of computing; null if it was ended
 */
async function stream(items, show, isWanted) {
  let slice = [];
  let milliseconds = 0;
  let began = performance.now();
  for (const item of items) {
    slice.push(item);
    const elapsed = performance.now() - began;
    if (elapsed < SLICE_MS) continue;
    milliseconds += elapsed;
    show(slice);
    slice = [];
    await new Promise((resolve) => setTimeout(resolve));
    if (!isWanted()) return null;
    began = performance.now();
  }
  show(slice);
  return (milliseconds + performance.now() - began) / 1000;
}

/** Reads ids; yields {id, logits, bits}, the logits and the surprise null for the first. */
function* readCharacters(reader, ids) {
  let logits = null;
  for (const id of ids) {
    yield { id, logits, bits: logits && surprise(logits, id) };
    logits = reader.read(id).slice();
  }
  return logits;
}

/** Returns the mean surprise of characters in bits. */
function meanBits(characters) {
  return characters.reduce((sum, { bits }) => sum + bits, 0) / characters.length;
}
