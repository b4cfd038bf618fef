// SPDX-License-Identifier: Apache-2.0
// Colours of a text that was read: its surprise, a unit of a layer, or a head's attention.

/** Returns the choices: {label, layer, units or head}; the surprise, first, has no layer. */
function colourings(model) {
  const choices = [{ label: "surprise" }];
  model.layers.forEach(({ units, heads }, layer) => {
    for (const each of units) {
      choices.push({ label: `layer ${layer}: ${each.replace("_", " ")}`, layer, units: each });
    }
    for (let head = 0; head < heads; head++) {
      choices.push({ label: `layer ${layer}: attention, head ${head}`, layer, head });
    }
  });
  return choices;
}

/** Returns whether numbers are shown as their tanh: an LSTM's cell drifts, and is handed on so. */
function isShownAsTanh(name, units) {
  return name === "lstm" && units === "cell";
}

/**
 * Connects the fields that choose the colours of a text.
 *
 * @param {object} playground model, vocabulary, and `looked`, a number of characters
 * @param {object} view view of the text, from `textView`; its characters have `seen`
 * @returns {object} show(isShown) shows or hides the fields; repaint() colours the text again,
 *   after another character was chosen
 */
function colourChoice({ model, vocabulary, looked }, view) {
  const select = byId("own_colour");
  const number = byId("own_unit");
  const choices = colourings(model);
  choices.forEach(({ label }, index) => {
    select.append(element("option", { value: index }, label));
  });

  const paint = () => {
    const choice = choices[select.value];
    toggle(byId("own_unit_field"), choice.units !== undefined);
    toggle(byId("own_legend"), choice.layer !== undefined);
    if (choice.layer === undefined) {
      view.paint(surpriseClass);
      say(byId("own_about"), "");
    } else if (choice.units !== undefined) paintUnit(choice);
    else paintHead(choice);
  };
  const paintUnit = ({ layer, units }) => {
    const { name, size } = model.layers[layer];
    const isTanh = isShownAsTanh(name, units);
    number.max = size - 1;
    byId("own_unit_label").textContent = `Unit, 0 to ${size - 1}`;
    const unit = numberIn("own_unit");
    const valueOf = ({ seen }) => {
      if (seen === null) return null;
      const value = seen[layer].units[units][unit];
      return isTanh ? Math.tanh(value) : value;
    };
    const values = view.characters().map(valueOf).filter((value) => value !== null);
    const isGate = units.endsWith("_gate");
    const most = isGate ? 1 : Math.max(...values.map(Math.abs), 1e-9);
    view.paint((character) => {
      const value = valueOf(character);
      return value === null ? "given" : shareClass(value / most);
    });
    showLegend(isGate ? "closed" : (-most).toFixed(2), isGate ? "open" : most.toFixed(2), !isGate);
    const chosen = view.characters()[view.current()];
    const value = chosen ? valueOf(chosen) : null;
    say(
      byId("own_about"),
      `Each of the ${size} units has a number after every ${vocabulary.noun}` +
        (isGate ? "." : ", negative in orange and positive in blue.") +
        " Change the number to see another." +
        (isTanh ? " Shown is tanh of the cell, which the layer hands on." : "") +
        (value === null ? "" : ` After the chosen ${vocabulary.noun} it is ${value.toFixed(3)}.`) +
        describeLimit(),
    );
  };
  const paintHead = ({ layer, head }) => {
    const all = view.characters();
    const current = view.current() < 0 ? Math.min(all.length, looked) - 1 : view.current();
    const weights = all[current].seen?.[layer].heads[head] ?? [];
    const most = Math.max(...weights, 1e-9);
    view.paint((_, index) => {
      const weight = weights[current - index];
      return weight === undefined ? "given" : shareClass(weight / most);
    });
    toggle(byId("own_legend"), weights.length > 0);
    showLegend("0 %", formatPercent(most), false);
    say(
      byId("own_about"),
      `How much the head takes from each ${vocabulary.noun} while the model reads the chosen ` +
        `one, or the last.${describeLimit()}`,
    );
  };
  const describeLimit = () =>
    view.characters().length > looked
      ? ` Known for the first ${looked} ${vocabulary.unit} of the text.`
      : "";

  select.addEventListener("input", () => {
    paint();
    number.value = numberIn("own_unit"); // the one in use: a layer may have fewer units
  });
  number.addEventListener("input", paint);
  const show = (isShown) => {
    toggle(byId("own_colours"), isShown);
    if (isShown) paint();
  };
  return { show, repaint: () => choices[select.value].layer !== undefined && paint() };
}

/** Shows the colours from one end to the other; those of the second hue if values have signs. */
function showLegend(first, last, hasSigns) {
  const names = Array.from({ length: LEVELS + 1 }, (_, level) => `s${level}`);
  if (hasSigns) for (let level = 1; level <= LEVELS; level++) names.unshift(`n${level}`);
  const swatches = names.map((name) => element("span", { className: `swatch ${name}` }));
  byId("own_legend").replaceChildren(first, ...swatches, last);
}
