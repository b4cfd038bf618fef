// SPDX-License-Identifier: Apache-2.0
// A text of the reader's own: the surprise of each character, and the bits per character.

/** Connects the section that reads a text. */
function readingSection(playground) {
  const { model, vocabulary, window, most, looked } = playground;
  const { unit, noun } = vocabulary;
  const text = byId("own_text");
  const button = byId("own_read");
  const progress = byId("own_progress");
  const status = byId("own_status"); // a screen reader says it: the result alone
  let turn = 0;
  let isReading = false;

  const panel = predictionPanel(vocabulary, {
    step: (by) => view.pick(view.current() + by),
    close: () => view.leave(),
  });
  byId("own_predictions").replaceChildren(panel.root);
  const view = textView(byId("own_view"), vocabulary, (index, character) => {
    if (character === null) panel.hide();
    else panel.show(character, null);
    if (view.characters().length > 1) colours.repaint();
  });
  const colours = colourChoice(playground, view);

  const start = async () => {
    const mine = ++turn;
    const { ids: all, unknown } = vocabulary.encode(text.value);
    const ids = all.slice(0, most);
    view.clear();
    colours.show(false);
    say(status, "");
    [isReading, button.textContent] = [true, "Stop"];
    const show = (slice) => {
      view.add(slice);
      progress.textContent = `${view.characters().length} of ${ids.length} ${unit}`;
    };
    const characters = readCharacters(openReader(model, window), ids, looked);
    await stream(characters, show, () => mine === turn && isReading);
    if (mine !== turn) return;
    [isReading, button.textContent] = [false, "Read"];
    progress.textContent = "";
    const read = view.characters();
    const isPart = read.length < all.length;
    say(
      status,
      (read.length > 1
        ? `${meanBits(read.slice(1)).toFixed(2)} bits of surprise per ${noun}.`
        : `Type two ${unit} or more: each is predicted from those before it.`) +
        (isPart ? ` Read the first ${read.length} of ${all.length} ${unit}.` : "") +
        describeUnknown(unknown, unit),
    );
    colours.show(read.length > 1);
  };
  button.addEventListener("click", () => {
    if (isReading) isReading = false;
    else start().catch(showFailure);
  });
}

/** Returns a sentence about symbols that the model does not know; empty if it knows all. */
function describeUnknown(unknown, unit) {
  if (unknown.length === 0) return "";
  const named = unknown.slice(0, 8).map((point) => `“${nameOf(point, unit)}”`);
  const more = unknown.length > 8 ? ` and ${unknown.length - 8} more` : "";
  return ` Left out, since the model does not know them: ${named.join(", ")}${more}.`;
}
