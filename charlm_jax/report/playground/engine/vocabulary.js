// SPDX-License-Identifier: Apache-2.0
// Text and symbols, as in charlm_jax/data/vocabulary.py. A symbol is a code point, or a byte of the
// text's UTF-8 if the model's unit is bytes.

/**
 * Returns a vocabulary.
 *
 * @param {number[]} symbols code points of the symbols, in the order of their ids
 * @param {string} unit "characters" or "bytes"
 * @returns {object} encode(text) is {ids, unknown}, where unknown are the symbols that the model
 *   does not know. show(ids) is a text for every id: of a character of several bytes, the first
 *   has the character and the others have none; what is not UTF-8 is U+FFFD. continues(id) says
 *   whether it is a byte that no character begins with, but that may follow in one.
 */
function openVocabulary(symbols, unit) {
  const isBytes = unit === "bytes";
  const ids = new Map(symbols.map((point, id) => [point, id]));
  const encode = (text) => {
    const points = isBytes ? utf8Bytes(text) : Array.from(text, (symbol) => symbol.codePointAt(0));
    return {
      ids: points.filter((point) => ids.has(point)).map((point) => ids.get(point)),
      unknown: [...new Set(points.filter((point) => !ids.has(point)))],
    };
  };
  const show = (list) => {
    const points = list.map((id) => symbols[id]);
    return isBytes ? utf8Texts(points) : points.map((point) => String.fromCodePoint(point));
  };
  const continues = (id) => isBytes && symbols[id] >> 6 === 2;
  return { unit, noun: unit.slice(0, -1), points: symbols, encode, show, continues };
}

/** Returns the bytes of a text in UTF-8; a lone surrogate becomes U+FFFD. */
function utf8Bytes(text) {
  return Array.from(text, (symbol) => symbol.codePointAt(0)).flatMap((point) => {
    if (point >= 0xd800 && point < 0xe000) return [0xef, 0xbf, 0xbd];
    if (point < 0x80) return [point];
    const last = 0x80 | (point & 63);
    if (point < 0x800) return [0xc0 | (point >> 6), last];
    const middle = 0x80 | ((point >> 6) & 63);
    if (point < 0x10000) return [0xe0 | (point >> 12), middle, last];
    return [0xf0 | (point >> 18), 0x80 | ((point >> 12) & 63), middle, last];
  });
}

/** Returns a text for every byte: the whole character at its first byte, nothing at the others. */
function utf8Texts(bytes) {
  const texts = [];
  while (texts.length < bytes.length) {
    const from = texts.length;
    const lead = bytes[from];
    const length = utf8Length(lead);
    const rest = length ? bytes.slice(from + 1, from + length) : [];
    const isWhole = rest.length === length - 1 && rest.every((byte) => byte >> 6 === 2);
    let point = length < 2 ? lead : lead & (0xff >> (length + 1));
    for (const byte of rest) point = (point << 6) | (byte & 63);
    const smallest = [0, 0, 0x80, 0x800, 0x10000][length];
    if (!isWhole || point < smallest || point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) {
      texts.push("\ufffd");
    } else {
      texts.push(String.fromCodePoint(point), ...rest.map(() => ""));
    }
  }
  return texts;
}

/** Returns the number of bytes of a character by its first; 0 if no character begins so. */
function utf8Length(lead) {
  if (lead < 0x80) return 1;
  if (lead < 0xc2 || lead > 0xf4) return 0;
  return lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}
