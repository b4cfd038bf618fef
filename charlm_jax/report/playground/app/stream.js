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

/**
 * Reads ids; yields {id, logits, bits, seen} of each and returns the logits after the last.
 *
 * @param {object} reader a reader of the model
 * @param {number[]} ids characters to read
 * @param {number} looked number of first characters after which the layers are looked at; `seen`
 *   is null for the others
 */
function* readCharacters(reader, ids, looked = 0) {
  let logits = null; // of the first character nothing is predicted
  for (const [index, id] of ids.entries()) {
    const after = reader.read(id).slice();
    const bits = logits && surprise(logits, id);
    yield { id, logits, bits, seen: index < looked ? reader.look() : null };
    logits = after;
  }
  return logits;
}

/** Returns the surprise of an id in bits. */
function surprise(logits, id) {
  return -Math.log2(probabilities(logits)[id]);
}

/** Returns the mean surprise of characters in bits. */
function meanBits(characters) {
  return characters.reduce((sum, { bits }) => sum + bits, 0) / characters.length;
}

/** Returns a function that calls another some milliseconds after the last of its own calls. */
function later(milliseconds, work) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, milliseconds);
  };
}
