// SPDX-License-Identifier: Apache-2.0
// A text of the reader's own: the surprise of each character, and the bits per character.

/** Connects the section that reads a text. */
function readingSection({ model, vocabulary, window }) {
  const text = byId("own_text");
  const status = byId("own_status");
  const predictions = byId("own_predictions");
  let read = [];
  let turn = 0;
  const view = textView(byId("own_view"), vocabulary, (index) => {
    showPredictions(predictions, vocabulary, read[index], null);
  });
  const start = async () => {
    const mine = ++turn;
    view.clear();
    predictions.replaceChildren();
    [read, status.textContent] = [[], ""];
    const { ids, unknown } = vocabulary.encode(text.value);
    const show = (slice) => {
      read.push(...slice);
      view.add(slice);
    };
    const characters = readCharacters(openReader(model, window), ids);
    if ((await stream(characters, show, () => mine === turn)) === null) return;
    status.textContent =
      (read.length > 1
        ? `${meanBits(read.slice(1)).toFixed(2)} bits per character.`
        : "Type two characters or more: each is predicted from those before it.") +
      describeUnknown(unknown);
  };
  byId("own_read").addEventListener("click", start);
}

/** Returns a sentence about characters that the model does not know; empty if it knows all. */
function describeUnknown(unknown) {
  if (unknown.length === 0) return "";
  const named = unknown.slice(0, 8).map((point) => `“${nameSymbol(String.fromCodePoint(point))}”`);
  const more = unknown.length > 8 ? ` and ${unknown.length - 8} more` : "";
  return ` Left out, since the model does not know them: ${named.join(", ")}${more}.`;
}
