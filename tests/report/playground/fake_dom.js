// SPDX-License-Identifier: Apache-2.0
// A document with the few properties that the code of the page uses; timers run when they are told.

class FakeNode {
  constructor(tagName) {
    Object.assign(this, {
      tagName, id: "", className: "", type: "", value: "", defaultValue: "", min: "", max: "",
      step: "", htmlFor: "", hidden: false, tabIndex: -1, onclick: null,
      childNodes: [], parentNode: null, attributes: {}, listeners: {},
    });
    this.style = { setProperty: (name, value) => this.setAttribute(name, value) };
    const names = () => this.className.split(" ").filter((name) => name !== "");
    const set = (list) => (this.className = [...new Set(list)].join(" "));
    this.classList = {
      add: (name) => set([...names(), name]),
      remove: (name) => set(names().filter((each) => each !== name)),
    };
  }
  get textContent() {
    return this.childNodes.map((x) => (x instanceof FakeNode ? x.textContent : x)).join("");
  }
  set textContent(text) {
    this.childNodes = text === "" ? [] : [String(text)];
    changes.push([this.id, String(text)]);
  }
  get valueAsNumber() {
    return this.value === "" ? NaN : Number(this.value);
  }
  get firstChild() {
    return this.childNodes[0] ?? null;
  }
  get lastChild() {
    return this.childNodes.at(-1) ?? null;
  }
  append(...added) {
    for (const each of added) {
      if (each instanceof FakeNode) each.parentNode = this;
      this.childNodes.push(each);
    }
  }
  replaceChildren(...added) {
    this.childNodes = [];
    this.append(...added);
  }
  remove() {
    const { childNodes } = this.parentNode ?? { childNodes: [] };
    if (childNodes.includes(this)) childNodes.splice(childNodes.indexOf(this), 1);
  }
  setAttribute(name, value) {
    this.attributes[name] = String(value);
  }
  toggleAttribute(name, isSet) {
    if (isSet) this.attributes[name] = "";
    else delete this.attributes[name];
  }
  addEventListener(type, listener) {
    (this.listeners[type] ??= []).push(listener);
  }
  dispatch(type, properties = {}) {
    const event = { target: this, preventDefault: () => {}, ...properties };
    for (let node = this; node !== null; node = node.parentNode) {
      for (const listener of node.listeners[type] ?? []) listener(event);
    }
    if (type === "click") this.onclick?.(event);
  }
  focus() {
    focused = this;
  }
  scrollIntoView() {
    scrolled = this;
  }
}

let focused = null;
let scrolled = null;
let changes = []; // [id, text] of every text that was replaced
const nodes = new Map();
const document = {
  createElement: (name) => new FakeNode(name),
  getElementById: (id) => nodes.get(id) ?? null,
};
function addNode(id, properties) {
  nodes.set(id, Object.assign(new FakeNode("div"), { id, ...properties }));
}

let milliseconds = 0;
globalThis.performance = { now: () => milliseconds++ };
let timers = new Map();
let timerId = 0;
globalThis.setTimeout = (work) => (timers.set(++timerId, work), timerId);
globalThis.clearTimeout = (id) => timers.delete(id);
function runTimers() {
  const due = [...timers.values()];
  timers = new Map();
  for (const work of due) work();
  return due.length;
}

// What the tests ask for.
const get = (id) => nodes.get(id);
const columnParts = (number) => get("columns").childNodes[number].childNodes;
const cellsOf = (text) => text.childNodes.flatMap((line) => line.childNodes);
const cells = () => cellsOf(columnParts(0)[3]);
const panelOf = (root) => {
  const [controls, heading, list] = root.childNodes;
  return {
    isOpen: root.className.includes("open") && !controls.hidden,
    heading: heading.textContent,
    rows: list.childNodes.map((row) => row.textContent),
    marked: list.childNodes.map((row) => row.attributes["aria-current"] === "true"),
  };
};
