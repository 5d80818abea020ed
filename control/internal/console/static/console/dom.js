// Elements. Every text is a text node: nothing from outside becomes markup.
import { words } from '/console/api.js';

/** h makes an element; attributes that begin with "on" are listeners. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return element;
}

let names = 0;

/** field is a control with its label, and a hint below it. */
export function field(label, control, hint = '') {
  control.id ||= `field-${++names}`;
  const parts = [h('label', { for: control.id }, label), control];
  if (hint) {
    const id = `${control.id}-hint`;
    control.setAttribute('aria-describedby', id);
    parts.push(h('span', { class: 'small soft', id }, hint));
  }
  return h('div', { class: 'field' }, parts);
}

export function select(options, value, attributes = {}) {
  return h('select', attributes, options.map(([name, text]) => h('option', { value: name, selected: name === value }, text)));
}

export const button = (text, onclick, kind = 'plain') => h('button', { type: 'button', class: `button ${kind}`, onclick }, text);

/** section is a card with a heading; make its contents the rest. */
export function section(title, ...children) {
  const id = `section-${++names}`;
  return h('section', { class: 'card', 'aria-labelledby': id }, h('h2', { id }, title), children);
}

/** say is a line in which a thing tells what became of it. */
export class Say {
  constructor() {
    this.element = h('p', { class: 'answer', role: 'status' });
  }
  put(text, kind = '') {
    if (this.element.textContent !== text) this.element.textContent = text;
    this.element.dataset.kind = kind;
  }
  good(text) { this.put(text, 'good'); }
  bad(error) {
    if (error.name !== 'AbortError') this.put(words(error), 'bad');
  }
  clear() { this.put(''); }
}

/** act runs fn while its button waits, and shows in say why it failed. */
export async function act(pressed, say, fn) {
  const focused = document.activeElement === pressed; // which it loses
  pressed.disabled = true;
  say.put('…');
  try {
    await fn();
  } catch (error) {
    say.bad(error);
  } finally {
    pressed.disabled = false;
    if (focused && document.activeElement === document.body) pressed.focus();
  }
}

/** form calls fn with its submit button; the page does not go anywhere. */
export function form(attributes, fn, ...children) {
  const element = h('form', { ...attributes, onsubmit: (event) => {
    event.preventDefault();
    fn(event.submitter ?? element.querySelector('button:not([type=button])'));
  } }, children);
  return element;
}

/** facts is a list of names with values: [[name, value], …]. */
export function facts(list) {
  return h('dl', { class: 'facts wide' }, list.map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value))));
}

/**
 * Table keeps its rows by key, so that focus and selection outlive an update.
 * A column is {name, text(row)} or {name, make(row)}, the latter made once for
 * each row; number aligns it, mark(row) gives its cell a state, key tells when
 * what was made must be made again.
 */
export class Table {
  constructor(caption, columns, { key, empty = 'Nothing here.' }) {
    Object.assign(this, { columns, key, rows: new Map() });
    this.body = h('tbody');
    this.empty = h('p', { class: 'empty', hidden: true }, empty);
    this.table = h('table', {}, h('caption', { class: 'hidden' }, caption),
      h('thead', {}, h('tr', {}, columns.map((c) => h('th', { scope: 'col', class: c.number && 'number' }, c.name)))), this.body);
    this.element = h('div', { class: 'table' }, this.table, this.empty);
  }
  update(list) {
    const old = this.rows;
    this.rows = new Map();
    let before = null;
    for (const row of list) {
      const name = this.key(row);
      const line = old.get(name) ?? this.line();
      old.delete(name);
      this.rows.set(name, line);
      this.fill(line, row);
      const next = before ? before.nextSibling : this.body.firstChild;
      if (next !== line.element) this.body.insertBefore(line.element, next);
      before = line.element;
    }
    for (const line of old.values()) line.element.remove();
    this.table.hidden = list.length === 0;
    this.empty.hidden = list.length > 0;
  }
  line() {
    const cells = this.columns.map((c) => h('td', { class: c.number && 'number', 'data-name': c.name }));
    return { element: h('tr', {}, cells), cells };
  }
  fill(line, row) {
    this.columns.forEach((column, i) => {
      const cell = line.cells[i];
      if (column.text) {
        const text = String(column.text(row));
        if (cell.textContent !== text) cell.textContent = text;
      } else if (!cell.hasChildNodes() || (column.key && cell.dataset.key !== column.key(row))) {
        cell.replaceChildren(...[column.make(row)].flat().filter(Boolean));
        if (column.key) cell.dataset.key = column.key(row);
      }
      if (column.mark) cell.dataset.mark = column.mark(row);
    });
  }
}

/**
 * sure asks before something that can not be undone. It resolves to the values
 * of the given fields by name, or to null. With typed the person must type that.
 */
export function sure({ title, text, action, fields = {}, typed = '' }) {
  return new Promise((resolve) => {
    const go = h('button', { class: 'button danger', disabled: typed !== '' }, action);
    const word = h('input', { autocomplete: 'off', spellcheck: 'false', oninput: () => { go.disabled = word.value !== typed; } });
    let result = null;
    const box = h('dialog', { 'aria-labelledby': 'sure-title', 'aria-describedby': 'sure-text', onclose: () => { box.remove(); resolve(result); } },
      form({ class: 'stack' }, () => {
        if (typed && word.value !== typed) return;
        result = Object.fromEntries(Object.entries(fields).map(([name, [, control]]) => [name, control.value]));
        box.close();
      },
      h('h2', { id: 'sure-title' }, title), h('p', { id: 'sure-text' }, text),
      Object.values(fields).map(([label, control, hint]) => field(label, control, hint)),
      typed && field(`Type ${typed} to go on`, word),
      h('div', { class: 'buttons' }, button('Cancel', () => box.close()), go)));
    document.body.append(box);
    box.showModal();
  });
}

/** every runs fn at once and then every so often until the signal; fn may fail. */
export function every(ms, signal, fn) {
  let timer;
  const turn = async () => {
    if (!document.hidden) await fn();
    if (!signal.aborted) timer = setTimeout(turn, ms);
  };
  signal.addEventListener('abort', () => clearTimeout(timer));
  turn();
}
