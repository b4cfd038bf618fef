// SPDX-License-Identifier: Apache-2.0
// A sample at one scale: slider, text and predictions. All columns have the same noise.

/**
 * Makes a column.
 *
 * @param {object} playground model, vocabulary and window
 * @param {function} settings returns the settings of the page; ids are those of the prompt
 * @param {number} scale first scale, one of `SCALES`
 * @param {number} number number of the column, from 1
 * @returns {object} root is its element and scale() its scale. draw() samples again, without
 *   the branches that were taken; stop() ends the sampling.
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
    "aria-label": `Sample ${number}: arrow keys choose a ${vocabulary.noun}`,
  });
  const status = element("p", { className: "status" });
  const ends = element(
    "div", { className: "ends", "aria-hidden": "true" },
    element("span", {}, "wilder"), element("span", {}, "more predictable"),
  );
  const panel = predictionPanel(vocabulary, {
    step: (by) => view.pick(view.current() + by),
    close: () => view.leave(),
  });
  const parts = [label, slider, ends, text, status, panel.root];
  const root = element("section", { className: "column" }, ...parts);

  const currentScale = () => SCALES[slider.value];
  let turn = 0; // a later drawing ends an earlier one
  let now = null; // settings of the text that is shown
  let given = 0; // length of its prompt
  let trail = null; // what has read it
  let branches = 0; // taken in it by hand
  let remark = ""; // said once, when a text is done

  const view = textView(text, vocabulary, (index, character) => {
    if (character === null) return panel.hide();
    const step = index - given;
    panel.show(character, step < 0 ? null : (id) => branch(step, id));
  });
  const branch = (step, id) => {
    branches++;
    view.cut(given + step);
    text.focus({ preventScroll: true }); // the button that was pressed goes away
    const characters = sampled(trail.goBack(given + step), step, id);
    write(characters, given + step).catch(showFailure);
  };

  function* sampled(logits, step, taken) {
    const { length, ...sampling } = now;
    const next = openSample(trail, logits, { ...sampling, scale: currentScale() }, step);
    for (let id = taken; step < length; step++, id = undefined) {
      const character = next(id);
      yield { ...character, bits: surprise(character.logits, character.id) };
    }
  }
  function* whole() {
    yield* sampled(yield* readCharacters(trail, now.ids), 0);
  }
  const write = async (characters, chosen = Infinity) => {
    const mine = ++turn;
    const kept = view.characters().length;
    say(status, "");
    const show = (slice) => {
      view.add(slice);
      if (view.current() < 0 && view.characters().length > chosen) view.pick(chosen);
    };
    const seconds = await stream(characters, show, () => mine === turn);
    if (seconds === null) return;
    const all = view.characters();
    const bits = meanBits(all.slice(given)).toFixed(2);
    const speed = Math.round((all.length - kept) / seconds);
    const taken = branches ? ` · branches taken: ${branches}` : "";
    say(
      status,
      `${bits} bits of surprise per ${vocabulary.noun} · ${speed} ${vocabulary.unit} a second` +
        `${taken}${remark}`,
    );
    remark = "";
  };
  const draw = () => {
    if (branches > 0) remark = ". The text began anew, without the branch that you took.";
    branches = 0;
    now = settings();
    given = now.ids.length;
    view.clear();
    if (given === 0) return stop();
    trail = openTrail(model, window, given + now.length);
    write(whole()).catch(showFailure);
  };
  const stop = () => {
    turn++;
    say(status, "");
  };
  const relabel = () => {
    const words = describeScale(currentScale(), vocabulary.noun);
    label.textContent = words;
    slider.setAttribute("aria-valuetext", words);
  };
  slider.addEventListener("input", () => {
    relabel();
    draw();
  });
  relabel();
  return { root, scale: currentScale, draw, stop };
}
