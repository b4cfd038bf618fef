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

/** Returns the name of a symbol as a person would say it. */
function nameSymbol(text) {
  const names = { " ": "space", "\n": "new line", "\t": "tab", "": "part of a character" };
  return names[text] ?? text;
}
