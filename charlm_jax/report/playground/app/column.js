// SPDX-License-Identifier: Apache-2.0
// A sample at one scale: slider, text and predictions. All columns have the same noise.

/**
 * Makes a column.
 *
 * @param {object} playground model, vocabulary and window
 * @param {function} settings returns the settings of the page; ids are those of the prompt
 * @param {number} scale first scale, one of `SCALES`
 * @param {number} number number of the column, from 1
 * @returns {object} root is its element and scale() its scale. draw() samples anew; restart()
 *   forgets branches first; stop() ends the drawing.
 */
function sampleColumn(playground, settings, scale, number) {
  const { model, vocabulary, window } = playground;
  const slider = element("input", {
    type: "range", id: `scale${number}`, min: 0, max: SCALES.length - 1, step: 1,
    value: SCALES.indexOf(scale),
  });
  const label = element("label", { htmlFor: slider.id });
  const text = element("div", {
    className: "text", role: "group",
    "aria-label": `Sample ${number}: arrow keys choose a character`,
  });
  const status = element("p", { className: "status" });
  const predictions = element("div", { className: "predictions", "aria-live": "polite" });
  const ends = element(
    "div", { className: "ends", "aria-hidden": "true" },
    element("span", {}, "wilder"), element("span", {}, "more predictable"),
  );
  const parts = [label, slider, ends, text, status, predictions];
  const root = element("section", { className: "column" }, ...parts);

  const currentScale = () => SCALES[slider.value];
  let turn = 0; // a later drawing ends an earlier one
  const forced = new Map(); // step -> id of a branch that was taken by hand

  let given = 0; // length of the prompt
  const view = textView(text, vocabulary, (index, character) => {
    const step = index - given;
    const take = step < 0 ? null : (id) => branch(step, id);
    showPredictions(predictions, vocabulary, character, take);
  });
  const branch = (step, id) => {
    for (const later of [...forced.keys()]) if (later > step) forced.delete(later);
    forced.set(step, id);
    text.focus({ preventScroll: true }); // the button that was pressed goes away
    draw(given + step);
  };

  function* characters({ ids, length, ...sampling }) {
    const reader = openReader(model, window);
    const logits = yield* readCharacters(reader, ids);
    const next = openSample(reader, logits, { ...sampling, scale: currentScale() }, forced);
    for (let step = 0; step < length; step++) {
      const character = next();
      yield { ...character, bits: surprise(character.logits, character.id) };
    }
  }
  const draw = async (chosen = Infinity) => {
    const mine = ++turn;
    const now = settings();
    view.clear();
    predictions.replaceChildren();
    status.textContent = "";
    given = now.ids.length;
    if (now.length === 0) return;
    const show = (slice) => {
      view.add(slice);
      if (view.current() < 0 && view.characters().length > chosen) view.pick(chosen);
    };
    const seconds = await stream(characters(now), show, () => mine === turn);
    if (seconds === null) return;
    const all = view.characters();
    const bits = meanBits(all.slice(given)).toFixed(2);
    const speed = Math.round(all.length / seconds);
    status.textContent = `${bits} bits of surprise per character · ${speed} characters a second`;
  };
  const restart = () => {
    forced.clear();
    draw();
  };
  const relabel = () => {
    const words = describeScale(currentScale());
    label.textContent = words;
    slider.setAttribute("aria-valuetext", words);
  };
  slider.addEventListener("input", () => {
    relabel();
    restart();
  });
  relabel();
  return { root, scale: currentScale, draw, restart, stop: () => void turn++ };
}
