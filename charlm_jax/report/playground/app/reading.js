// SPDX-License-Identifier: Apache-2.0
// A text of the reader's own: the surprise of each character, and the bits per character.

const MOST_READ = 20000; // characters of a text; each has an element of the page
const MOST_LOOKED = 2000; // first characters whose gates, states and attention are kept

/** Connects the section that reads a text. */
function readingSection({ model, vocabulary, window }) {
  const text = byId("own_text");
  const button = byId("own_read");
  const status = byId("own_status");
  const predictions = byId("own_predictions");
  let turn = 0;
  let isReading = false;

  const view = textView(byId("own_view"), vocabulary, (index, character) => {
    showPredictions(predictions, vocabulary, character, null);
    colours.repaint();
  });
  const colours = colourChoice(model, view);

  const start = async () => {
    const mine = ++turn;
    const { ids: all, unknown } = vocabulary.encode(text.value);
    const ids = all.slice(0, MOST_READ);
    view.clear();
    predictions.replaceChildren();
    colours.show(false);
    [isReading, button.textContent] = [true, "Stop"];
    const show = (slice) => {
      view.add(slice);
      status.textContent = `${view.characters().length} of ${ids.length} characters`;
    };
    const characters = readCharacters(openReader(model, window), ids, MOST_LOOKED);
    await stream(characters, show, () => mine === turn && isReading);
    if (mine !== turn) return;
    [isReading, button.textContent] = [false, "Read"];
    const read = view.characters();
    const isPart = read.length < all.length;
    status.textContent =
      (read.length > 1
        ? `${meanBits(read.slice(1)).toFixed(2)} bits per character.`
        : "Type two characters or more: each is predicted from those before it.") +
      (isPart ? ` Read the first ${read.length} of ${all.length} characters.` : "") +
      describeUnknown(unknown);
    colours.show(read.length > 1);
  };
  button.addEventListener("click", () => (isReading ? (isReading = false) : start()));
}

/** Returns a sentence about characters that the model does not know; empty if it knows all. */
function describeUnknown(unknown) {
  if (unknown.length === 0) return "";
  const named = unknown.slice(0, 8).map((point) => `“${nameSymbol(String.fromCodePoint(point))}”`);
  const more = unknown.length > 8 ? ` and ${unknown.length - 8} more` : "";
  return ` Left out, since the model does not know them: ${named.join(", ")}${more}.`;
}
