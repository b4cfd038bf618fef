// SPDX-License-Identifier: Apache-2.0
// Signs for characters that cannot be seen, as in charlm_jax/core/visible_text.py and in reports.

const SIGNS = { " ": "␣", "\n": "↵", "\t": "⇥" };
const SIGN_NAMES = { " ": "space", "\n": "new line", "\t": "tab" };
const LATER_BYTE = "·"; // of a character of several bytes, which is shown at the first

// Control characters, changes of direction, other invisible format characters, separators of
// lines, private use, lone surrogates and noncharacters.
const INVISIBLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}\p{Noncharacter_Code_Point}]/u;
// Format characters that belong to words: joiners, and signs that precede numbers.
const OF_WORDS = /[\u200c\u200d\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\u{110bd}\u{110cd}]/u;

/** Returns a symbol, or an escape code such as \u202e for one that cannot be seen. */
function visible(symbol) {
  return INVISIBLE.test(symbol) && !OF_WORDS.test(symbol) ? escapeCode(symbol) : symbol;
}

function escapeCode(symbol) {
  const short = { "\n": "\\n", "\t": "\\t", "\r": "\\r" };
  if (symbol in short) return short[symbol];
  const point = symbol.codePointAt(0);
  const [letter, digits] = point < 0x100 ? ["x", 2] : point < 0x10000 ? ["u", 4] : ["U", 8];
  return `\\${letter}${point.toString(16).padStart(digits, "0")}`;
}

/** Returns a sign for white space, a carrier for a combining mark, else the visible symbol. */
function sign(symbol) {
  return /^\p{M}/u.test(symbol) ? `◌${symbol}` : (SIGNS[symbol] ?? visible(symbol));
}

/** Returns a symbol as a text shows it: {shown, isSign}. Spaces and tabs stay as they are. */
function inText(symbol) {
  if (symbol === " " || symbol === "\t") return { shown: symbol, isSign: false };
  if (symbol === "") return { shown: LATER_BYTE, isSign: true };
  return { shown: sign(symbol), isSign: symbol === "\n" };
}

/** Returns the name of a symbol, by its code point, or of a byte. */
function nameOf(point, unit) {
  if (unit === "bytes" && point > 127) return `byte ${point.toString(16).toUpperCase()}`;
  const symbol = String.fromCodePoint(point);
  if (symbol in SIGNS) return `${SIGNS[symbol]} ${SIGN_NAMES[symbol]}`;
  return INVISIBLE.test(symbol) ? escapeCode(symbol) : sign(symbol);
}
