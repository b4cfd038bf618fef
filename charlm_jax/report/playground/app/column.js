// SPDX-License-Identifier: Apache-2.0
// A sample at one scale: slider, text and predictions. All columns have the same noise.

/**
 * Makes a column.
 *
 * @param {object} playground model, vocabulary and window
 * @param {function} settings returns the settings of the page; ids are those of the prompt
 * @param {number} scale first scale, one of `SCALES`
 * @param {number} number number of the column, from 1
 * @returns {object} root is its element. draw() samples anew; restart() forgets branches first;
 *   stop() ends the drawing.
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
  const parts = [label, slider, text, status, predictions];
  const root = element("section", { className: "column" }, ...parts);

  let turn = 0; // a later drawing ends an earlier one
  let drawn = [];
  const forced = new Map(); // step -> id of a branch that was taken by hand

  const view = textView(text, vocabulary, (index) => {
    const step = index - settings().ids.length;
    const take = step < 0 ? null : (id) => branch(step, id);
    showPredictions(predictions, vocabulary, drawn[index], take);
  });
  const branch = (step, id) => {
    for (const later of [...forced.keys()]) if (later > step) forced.delete(later);
    forced.set(step, id);
    draw();
  };

  function* characters({ ids, length, ...sampling }) {
    const reader = openReader(model, window);
    const logits = yield* readCharacters(reader, ids);
    const next = openSample(reader, logits, { ...sampling, scale: SCALES[slider.value] }, forced);
    for (let step = 0; step < length; step++) {
      const character = next();
      yield { ...character, bits: surprise(character.logits, character.id) };
    }
  }
  const draw = async () => {
    const mine = ++turn;
    const now = settings();
    view.clear();
    predictions.replaceChildren();
    [drawn, status.textContent] = [[], ""];
    if (now.length === 0) return;
    const show = (slice) => {
      drawn.push(...slice);
      view.add(slice);
    };
    const seconds = await stream(characters(now), show, () => mine === turn);
    if (seconds === null) return;
    const bits = meanBits(drawn.slice(now.ids.length)).toFixed(2);
    const speed = Math.round(drawn.length / seconds);
    status.textContent = `${bits} bits per character · ${speed} characters per second`;
  };
  const restart = () => {
    forced.clear();
    draw();
  };
  const relabel = () => {
    const words = describeScale(SCALES[slider.value]);
    label.textContent = words;
    slider.setAttribute("aria-valuetext", words);
  };
  slider.addEventListener("input", () => {
    relabel();
    restart();
  });
  relabel();
  return { root, draw, restart, stop: () => void turn++ };
}
