// SPDX-License-Identifier: Apache-2.0
// The panel of a text: the most probable characters where the chosen one stands, with bars.

const SHOWN = 5;

/** Returns a share in per cent, as `format_percent` of reports does. */
function formatPercent(share) {
  const percent = 100 * share;
  if (percent === 0) return "0 %";
  if (percent < 0.01) return "<0.01 %";
  return `${percent.toFixed(percent < 1 ? 2 : percent < 99.95 ? 1 : 0)} %`;
}

/**
 * Makes a panel, which stays at the bottom of the window while its text is there.
 *
 * @param {object} vocabulary vocabulary of the model
 * @param {object} actions step(by) chooses the character before (-1) or after (1); close() none
 * @returns {object} root is its element. show(character, take) fills it, where the character is
 *   {id, logits}, logits null if it was not predicted, and take(id) takes another branch, null if
 *   there is none. hide() empties it.
 */
function predictionPanel(vocabulary, { step, close }) {
  const heading = element("p", { role: "status" });
  const button = (label, onclick) => element("button", { type: "button", onclick }, label);
  const controls = element(
    "div", { className: "controls", hidden: true },
    button("Previous", () => step(-1)), button("Next", () => step(1)), button("Close", close),
  );
  const list = element("ol");
  const root = element("div", { className: "predictions" }, controls, heading, list);
  const show = (character, take) => {
    toggle(controls, true);
    root.classList.add("open");
    say(heading, describePrediction(vocabulary, character, take !== null));
    list.replaceChildren(...predictionRows(vocabulary, character, take));
  };
  const hide = () => {
    toggle(controls, false);
    root.classList.remove("open");
    say(heading, "");
    list.replaceChildren();
  };
  return { root, show, hide };
}

/** Returns a sentence on a character, and one on branches if there are any. */
function describePrediction({ points, unit }, { id, logits }, hasBranches) {
  const name = `“${nameOf(points[id], unit)}”`;
  if (logits === null) return `${name} was given: the model did not predict it.`;
  const rank = 1 + logits.filter((logit) => logit > logits[id]).length;
  return (
    `${name}: ${surprise(logits, id).toFixed(2)} bits of surprise, ` +
    `rank ${rank} of ${logits.length}.` +
    (hasBranches ? " Choose another to branch off." : "")
  );
}

/** Returns list items of the most probable characters and of the one in the text. */
function predictionRows({ points, unit }, { id, logits }, take) {
  if (logits === null) return [];
  const shares = probabilities(logits);
  const order = Array.from(shares.keys()).sort((a, b) => shares[b] - shares[a]);
  const listed = order.slice(0, SHOWN);
  if (!listed.includes(id)) listed.push(id);
  return listed.map((each) => {
    const isTaken = each === id;
    const name = nameOf(points[each], unit);
    const bar = element("span", { className: "bar", "aria-hidden": "true" });
    bar.style.setProperty("--share", shares[each]);
    const parts = [
      element("span", { className: "symbol" }, isTaken ? `▸ ${name}` : name),
      element("span", { className: "track", "aria-hidden": "true" }, bar),
      element("span", { className: "percent" }, formatPercent(shares[each])),
    ];
    if (take === null || isTaken) {
      const row = element("span", { className: "row" }, ...parts);
      return element("li", isTaken ? { className: "taken", "aria-current": "true" } : {}, row);
    }
    const row = element("button", { type: "button", onclick: () => take(each) }, ...parts);
    return element("li", {}, row);
  });
}
