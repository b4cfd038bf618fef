// SPDX-License-Identifier: Apache-2.0
// Opens the model of the page and connects its parts.

const MOST_COLUMNS = 3;
const FIRST_SCALES = [1, 2, 0.5]; // of new columns, unless another has it

/** Returns model, vocabulary and window from the data blocks of the page. */
function openPlayground() {
  const description = JSON.parse(byId("model").textContent);
  const { buffer } = decodeBase64(byId("weights").textContent.trim());
  byId("weights").remove();
  const { model, symbols, unit, tensors, mode, context } = description;
  return {
    model: buildModel(model, symbols.length, openWeights(tensors, buffer), context),
    vocabulary: openVocabulary(symbols, unit),
    window: mode === "window" ? context : 0,
  };
}

/** Returns the number in a field, within its limits. */
function numberIn(id) {
  const { valueAsNumber, min, max, defaultValue } = byId(id);
  const value = Number.isNaN(valueAsNumber) ? Number(defaultValue) : valueAsNumber;
  return Math.min(Math.max(value, Number(min)), max === "" ? Infinity : Number(max));
}

function main() {
  const playground = openPlayground();
  const columns = [];

  const settings = () => {
    const { ids, unknown } = playground.vocabulary.encode(byId("prompt").value);
    byId("prompt_status").textContent =
      describeUnknown(unknown) + (ids.length ? "" : " Type at least one character.");
    return {
      ids,
      length: ids.length ? Math.floor(numberIn("length")) : 0,
      seed: Math.floor(numberIn("seed")),
      index: 0,
      topK: Math.floor(numberIn("top_k")),
      topP: numberIn("top_p"),
      minP: numberIn("min_p"),
    };
  };
  const restart = () => columns.forEach((column) => column.restart());
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

  for (const id of ["prompt", "length", "seed", "top_k", "top_p", "min_p"]) {
    byId(id).addEventListener("input", restart);
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

main();
