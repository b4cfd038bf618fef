// SPDX-License-Identifier: Apache-2.0
// What the model expected at a character: the five most probable, with bars.

const SHOWN = 5;

/** Returns a share as a percentage, in at most six characters. */
function formatPercent(share) {
  const percent = 100 * share;
  if (percent < 0.01) return "<0.01 %";
  return `${percent.toFixed(percent < 1 ? 2 : percent < 99.95 ? 1 : 0)} %`;
}

/**
 * Shows the predictions for one character.
 *
 * @param {HTMLElement} root element to fill
 * @param {object} vocabulary vocabulary of the model
 * @param {object} character {id, logits}; logits null if it was not predicted
 * @param {function|null} take called with the id of another branch; null if there is none
 */
function showPredictions(root, vocabulary, { id, logits }, take) {
  const [text] = vocabulary.show([id]);
  if (logits === null) {
    const first = `“${nameSymbol(text)}” was given: the model did not predict it.`;
    root.replaceChildren(element("p", {}, first));
    return;
  }
  const shares = probabilities(logits);
  const order = Array.from(shares.keys()).sort((a, b) => shares[b] - shares[a]);
  const listed = order.slice(0, SHOWN);
  if (!listed.includes(id)) listed.push(id);
  const rows = listed.map((each) => {
    const label = nameSymbol(vocabulary.show([each])[0]);
    const percent = formatPercent(shares[each]);
    const bar = element("span", { className: "bar", "aria-hidden": "true" });
    bar.style.setProperty("--share", shares[each]);
    const parts = [
      element("span", { className: "symbol" }, label),
      element("span", { className: "track", "aria-hidden": "true" }, bar),
      element("span", { className: "percent" }, percent),
    ];
    const isTaken = each === id;
    const row =
      take && !isTaken
        ? element("button", { type: "button", onclick: () => take(each) }, ...parts)
        : element("span", { className: "row" }, ...parts);
    return element("li", { className: isTaken ? "taken" : "" }, row);
  });
  const rank = order.indexOf(id) + 1;
  const heading =
    `“${nameSymbol(text)}”: ${surprise(logits, id).toFixed(2)} bits of surprise, ` +
    `rank ${rank} of ${shares.length}.` +
    (take ? " Choose another character to take another branch." : "");
  root.replaceChildren(element("p", {}, heading), element("ol", {}, ...rows));
}
