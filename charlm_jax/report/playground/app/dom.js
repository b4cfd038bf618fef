// SPDX-License-Identifier: Apache-2.0
// Elements. Text enters the page as text alone, never as markup.

/** Creates an element with properties and children; text children are shown as they are. */
function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [property, value] of Object.entries(properties)) {
    if (property in made) made[property] = value;
    else made.setAttribute(property, value);
  }
  made.append(...children);
  return made;
}

function byId(id) {
  return document.getElementById(id);
}

/** Shows or hides an element. */
function toggle(node, isShown) {
  node.hidden = !isShown;
}

/** Replaces a text if it differs: a screen reader says it again whenever it is replaced. */
function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Shows what went wrong, in place of a page that does nothing. */
function showFailure(error) {
  say(byId("failure"), `Something went wrong in this page: ${error.message}`);
  throw error;
}
