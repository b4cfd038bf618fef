// SPDX-License-Identifier: Apache-2.0
// Limits of a text, so that a large model does not fill the memory of a browser.

const MOST_CHARACTERS = 20000; // each is an element of the page
const MOST_LOOKED = 2000; // first characters whose gates, states and attention are kept
const MOST_BYTES = 2 ** 25; // of the predictions of a text, and as many of its states

/** Returns the number of characters of a text whose predictions are kept. */
function mostCharacters({ symbols }) {
  return fitting(MOST_CHARACTERS, symbols);
}

/** Returns the number of characters of a text whose gates, states and attention are kept. */
function mostLooked({ layers }) {
  const numbers = layers.map(
    ({ size, units, heads, places }) => size * units.length + heads * places,
  );
  return fitting(MOST_LOOKED, numbers.reduce((sum, each) => sum + each, 0));
}

function fitting(most, numbers) {
  return Math.max(1, Math.min(most, Math.floor(MOST_BYTES / (4 * numbers))));
}
