// SPDX-License-Identifier: Apache-2.0
// A reader that can go back to an earlier place of its text.

const MARK_DISTANCE = 50; // characters; going back reads as many again, unless memory is short
const MARK_BYTES = 2 ** 24; // of all marks of a text

/**
 * Returns a reader that can go back.
 *
 * @param {object} model a model, from `buildModel`
 * @param {number} window as for `openReader`
 * @param {number} length number of characters that it will read
 * @returns {object} read(id) returns the logits of the next character, in an array that the next
 *   call overwrites. goBack(count) forgets all but the first `count` characters, at least one, and
 *   returns the logits after them.
 */
function openTrail(model, window, length) {
  const bytes = countBytes(model.start());
  const every = Math.max(MARK_DISTANCE, Math.ceil((length * bytes) / MARK_BYTES));
  let reader = openReader(model, window);
  let ids = [];
  const marks = []; // {count, reader} at every multiple of `every`; a window needs none
  const read = (id) => {
    if (window === 0 && ids.length % every === 0) {
      marks.push({ count: ids.length, reader: reader.copy() });
    }
    ids.push(id);
    return reader.read(id);
  };
  const goBack = (count) => {
    const kept = ids.slice(0, count);
    let from = Math.max(0, count - window);
    if (window > 0) {
      reader = openReader(model, window);
    } else {
      while (marks.at(-1).count >= count) marks.pop();
      ({ count: from, reader } = marks.pop()); // reading on marks this place again
    }
    ids = kept.slice(0, from);
    let logits;
    for (const id of kept.slice(from)) logits = read(id);
    return logits;
  };
  return { read, goBack };
}

/** Returns the number of bytes of the typed arrays in nested plain objects and arrays. */
function countBytes(tree) {
  if (ArrayBuffer.isView(tree)) return tree.byteLength;
  if (tree === null || typeof tree !== "object") return 0;
  return Object.values(tree).reduce((sum, value) => sum + countBytes(value), 0);
}
