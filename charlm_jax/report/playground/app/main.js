// SPDX-License-Identifier: Apache-2.0
// Opens the model of the page and connects its parts.

const MOST_COLUMNS = 3;
const FIRST_SCALES = [1, 2, 0.5]; // of new columns, unless another has it
const TYPING_MS = 150; // after the last key a sample begins anew

/** Returns model, vocabulary, window and limits from the data blocks of the page. */
function openPlayground() {
  const description = JSON.parse(byId("model").textContent);
  const { buffer } = decodeBase64(byId("weights").textContent.trim());
  byId("weights").remove();
  const { model: config, symbols, unit, tensors, mode, context } = description;
  const model = buildModel(config, symbols.length, openWeights(tensors, buffer), context);
  return {
    model,
    vocabulary: openVocabulary(symbols, unit),
    window: mode === "window" ? context : 0,
    most: mostCharacters(model),
    looked: mostLooked(model),
  };
}

/** Returns the number in a field, within its limits, and whole if the field counts. */
function numberIn(id) {
  const { valueAsNumber, min, max, step, defaultValue } = byId(id);
  const value = Number.isNaN(valueAsNumber) ? Number(defaultValue) : valueAsNumber;
  const within = Math.min(Math.max(value, Number(min)), max === "" ? Infinity : Number(max));
  return step === "1" ? Math.floor(within) : within;
}

/** Returns the last ids of a prompt, and a sentence on what is left out of it. */
function readPrompt({ vocabulary, most }, text) {
  const { ids: all, unknown } = vocabulary.encode(text);
  const ids = all.slice(-most);
  const { unit, noun } = vocabulary;
  const words =
    describeUnknown(unknown, unit) +
    (ids.length < all.length ? ` Only the last ${most} ${unit} are read.` : "") +
    (ids.length === 0 ? ` Type at least one ${noun} that the model knows.` : "");
  return { ids, words };
}

function main() {
  const playground = openPlayground();
  const columns = [];
  byId("length").max = playground.most;

  const settings = () => {
    const { ids, words } = readPrompt(playground, byId("prompt").value);
    say(byId("prompt_status"), words);
    return {
      ids,
      length: numberIn("length"),
      seed: numberIn("seed"),
      index: 0,
      topK: numberIn("top_k"),
      topP: numberIn("top_p"),
      minP: numberIn("min_p"),
    };
  };
  const restart = () => columns.forEach((column) => column.draw());
  const addColumn = () => {
    const taken = columns.map((column) => column.scale());
    const scale = FIRST_SCALES.find((each) => !taken.includes(each));
    const column = sampleColumn(playground, settings, scale, columns.length + 1);
    columns.push(column);
    byId("columns").append(column.root);
    update();
    if (columns.length === MOST_COLUMNS) byId("remove_scale").focus();
    column.draw();
  };
  const removeColumn = () => {
    const column = columns.pop();
    column.stop();
    column.root.remove();
    update();
    if (columns.length === 1) byId("add_scale").focus(); // the button that was pressed goes away
  };
  const update = () => {
    toggle(byId("add_scale"), columns.length < MOST_COLUMNS);
    toggle(byId("remove_scale"), columns.length > 1);
  };

  const restartLater = later(TYPING_MS, restart);
  const numbers = ["length", "seed", "top_k", "top_p", "min_p"];
  for (const id of ["prompt", ...numbers]) byId(id).addEventListener("input", restartLater);
  for (const id of [...numbers, "own_unit"]) {
    byId(id).addEventListener("change", () => (byId(id).value = numberIn(id))); // the one in use
  }
  byId("another").addEventListener("click", () => {
    byId("seed").value = (numberIn("seed") + 1) % 2 ** 32;
    restart();
  });
  byId("add_scale").addEventListener("click", addColumn);
  byId("remove_scale").addEventListener("click", removeColumn);
  readingSection(playground);
  addColumn();
}

try {
  main();
} catch (error) {
  showFailure(error);
}
