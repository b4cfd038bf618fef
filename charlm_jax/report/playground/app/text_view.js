// SPDX-License-Identifier: Apache-2.0
// A text whose characters are coloured by their surprise. A tap or the arrow keys choose one.

const LEVELS = 8; // one for each bit of surprise, the last without an upper end

/**
 * Makes a view of a text in an element.
 *
 * @param {HTMLElement} root element for the text
 * @param {object} vocabulary vocabulary of the model
 * @param {function} choose called with the index of a chosen character
 * @returns {object} clear(), add(characters), mark(index) and length(). A character is {id, bits},
 *   with bits null if it was not predicted.
 */
function textView(root, vocabulary, choose) {
  let cells = [];
  let ids = [];
  let current = 0;
  root.tabIndex = 0;

  const clear = () => {
    [cells, ids, current] = [[], [], 0];
    root.replaceChildren();
  };
  const add = (characters) => {
    const added = characters.map(({ bits }) => {
      const level = bits === null ? "given" : `s${Math.min(LEVELS, Math.round(bits))}`;
      return element("span", { className: level });
    });
    cells.push(...added);
    ids.push(...characters.map(({ id }) => id));
    // The last bytes of a character may have been missing before.
    const from = Math.max(0, ids.length - added.length - 3);
    vocabulary.show(ids.slice(from)).forEach((text, i) => {
      if (cells[from + i].textContent !== text) cells[from + i].textContent = text;
    });
    root.append(...added);
  };
  const mark = (index) => {
    cells[current]?.classList.remove("chosen");
    current = Math.max(0, Math.min(cells.length - 1, index));
    cells[current]?.classList.add("chosen");
  };
  const pick = (index) => {
    if (cells.length === 0) return;
    mark(index);
    choose(current);
  };
  root.addEventListener("click", (event) => {
    const index = cells.indexOf(event.target);
    if (index >= 0) pick(index);
  });
  root.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
    if (!(event.key in moves)) return;
    event.preventDefault();
    pick(current + moves[event.key]);
  });
  return { clear, add, mark, length: () => cells.length };
}

/** Returns the surprise of an id in bits. */
function surprise(logits, id) {
  return -Math.log2(probabilities(logits)[id]);
}
