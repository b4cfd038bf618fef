// SPDX-License-Identifier: Apache-2.0
// A text whose characters are coloured. A tap or the arrow keys choose one.

const LEVELS = 8; // one for each bit of surprise, the last without an upper end

/**
 * Makes a view of a text in an element.
 *
 * @param {HTMLElement} root element for the text
 * @param {object} vocabulary vocabulary of the model
 * @param {function} choose called with the index of a character that was chosen, and the character;
 *   with -1 and null if none is chosen any more
 * @returns {object} clear(), add(characters), cut(count), paint(classOf), pick(index), leave(),
 *   current() and characters(). A character is {id, bits}, with bits null if it was not predicted.
 *   cut keeps the first `count` characters. classOf(character, index) is the class that colours a
 *   character.
 */
function textView(root, vocabulary, choose) {
  let cells = [];
  let characters = [];
  let line = null; // a block for each line: the browser lays out the last one alone
  let current = -1;
  let classOf = surpriseClass;
  root.tabIndex = 0;

  const clear = () => {
    leave();
    [cells, characters, line, classOf] = [[], [], null, surpriseClass];
    root.replaceChildren();
  };
  const add = (added) => {
    for (const character of added) {
      if (line === null) root.append((line = element("div")));
      const cell = element("span", { className: classOf(character, cells.length) });
      cells.push(cell);
      characters.push(character);
      line.append(cell);
      if (endsLine(character)) line = null;
    }
    // The last bytes of a character may have been missing before.
    let from = Math.max(0, cells.length - added.length - 3);
    while (from > 0 && vocabulary.continues(characters[from].id)) from--;
    const texts = vocabulary.show(characters.slice(from).map(({ id }) => id));
    texts.map(inText).forEach(({ shown, isSign }, i) => {
      const cell = cells[from + i];
      if (cell.textContent === shown) return;
      cell.textContent = shown;
      cell.toggleAttribute("data-sign", isSign);
    });
  };
  const cut = (count) => {
    if (current >= count) leave();
    cells.splice(count).forEach((cell) => cell.remove());
    characters = characters.slice(0, count);
    while (root.lastChild && root.lastChild.firstChild === null) root.lastChild.remove();
    line = count === 0 || endsLine(characters[count - 1]) ? null : root.lastChild;
  };
  const paint = (newClassOf) => {
    classOf = newClassOf;
    cells.forEach((cell, i) => (cell.className = classOf(characters[i], i)));
    cells[current]?.classList.add("chosen");
  };
  const pick = (index) => {
    if (cells.length === 0) return;
    cells[current]?.classList.remove("chosen");
    current = Math.max(0, Math.min(cells.length - 1, index));
    cells[current].classList.add("chosen");
    choose(current, characters[current]);
    cells[current].scrollIntoView({ block: "nearest" });
  };
  const leave = () => {
    cells[current]?.classList.remove("chosen");
    current = -1;
    choose(-1, null);
  };
  const endsLine = ({ id }) => vocabulary.show([id])[0] === "\n";
  root.addEventListener("click", (event) => {
    const index = cells.indexOf(event.target);
    if (index >= 0) pick(index);
  });
  root.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
    if (event.key === "Escape") leave();
    if (!(event.key in moves)) return;
    event.preventDefault();
    pick(current + moves[event.key]);
  });
  return {
    clear, add, cut, paint, pick, leave,
    current: () => current, characters: () => characters,
  };
}

/** Returns the class of a character by its surprise. */
function surpriseClass({ bits }) {
  return bits === null ? "given" : `s${Math.min(LEVELS, Math.round(bits))}`;
}

/** Returns the class of a share from -1 to 1: a second hue below 0. */
function shareClass(share) {
  const level = Math.min(LEVELS, Math.round(LEVELS * Math.abs(share)));
  return `${share < 0 && level > 0 ? "n" : "s"}${level}`;
}
