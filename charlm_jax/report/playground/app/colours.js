// SPDX-License-Identifier: Apache-2.0
// What colours a text that was read: its surprise, a unit of a layer, or a head's attention.

/** Returns what can be chosen: {group, label, layer, units or head}, the surprise first. */
function colourings(model) {
  const choices = [{ group: null, label: "Surprise" }];
  model.layers.forEach(({ name, units, heads }, layer) => {
    const words = (each) => each.replace("_", " ");
    for (const each of units) {
      choices.push({ group: words(name), label: words(each), layer, units: each });
    }
    for (let head = 0; head < heads; head++) {
      choices.push({ group: words(name), label: `attention, head ${head}`, layer, head });
    }
  });
  return choices;
}

/**
 * Connects the fields that choose what colours a text.
 *
 * @param {object} model the model
 * @param {object} view view of the text, from `textView`; its characters have `seen`
 * @returns {object} show(isShown) shows or hides the fields; repaint() colours the text again,
 *   after another character was chosen
 */
function colourChoice(model, view) {
  const select = byId("own_colour");
  const number = byId("own_unit");
  const choices = colourings(model);
  const groups = new Map([[null, select]]);
  choices.forEach(({ group, label }, index) => {
    if (!groups.has(group)) {
      groups.set(group, element("optgroup", { label: group }));
      select.append(groups.get(group));
    }
    groups.get(group).append(element("option", { value: index }, label));
  });

  const paint = () => {
    const choice = choices[select.value];
    toggle(byId("own_unit_field"), choice.units !== undefined);
    toggle(byId("own_legend"), choice.group !== null);
    byId("own_about").textContent = "";
    if (choice.group === null) view.paint(surpriseClass);
    else if (choice.units !== undefined) paintUnit(choice);
    else paintHead(choice);
  };
  const paintUnit = ({ layer, units }) => {
    number.max = model.layers[layer].size - 1;
    const unit = Math.floor(numberIn("own_unit"));
    const valueOf = ({ seen }) => (seen === null ? null : seen[layer].units[units][unit]);
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
    byId("own_about").textContent =
      (value === null
        ? "Choose a character to see the number."
        : `After the chosen character: ${value.toFixed(3)}.`) + describeLimit();
  };
  const paintHead = ({ layer, head }) => {
    const all = view.characters();
    const current = view.current() < 0 ? Math.min(all.length, MOST_LOOKED) - 1 : view.current();
    const weights = all[current].seen?.[layer].heads[head] ?? [];
    const most = Math.max(...weights, 1e-9);
    view.paint((_, index) => {
      const weight = weights[current - index];
      return weight === undefined ? "given" : shareClass(weight / most);
    });
    showLegend("0 %", `${(100 * most).toPrecision(2)} %`, false);
    byId("own_about").textContent =
      "How much the layer took from each character to predict the one after the chosen " +
      `character, or after the last.${describeLimit()}`;
  };
  const describeLimit = () =>
    view.characters().length > MOST_LOOKED
      ? ` Known for the first ${MOST_LOOKED} characters of the text.`
      : "";

  select.addEventListener("input", paint);
  number.addEventListener("input", paint);
  const show = (isShown) => {
    toggle(byId("own_colours"), isShown);
    if (isShown) paint();
  };
  return { show, repaint: () => choices[select.value].group !== null && paint() };
}

/** Shows the colours from one end to the other; those of the second hue if values have signs. */
function showLegend(first, last, hasSigns) {
  const names = Array.from({ length: LEVELS + 1 }, (_, level) => `s${level}`);
  if (hasSigns) for (let level = 1; level <= LEVELS; level++) names.unshift(`n${level}`);
  const swatches = names.map((name) => element("span", { className: `swatch ${name}` }));
  byId("own_legend").replaceChildren(first, ...swatches, last);
}
