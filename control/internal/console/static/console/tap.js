// Tap: what a room, a user or a session gets, frame by frame, while it happens.
import { events, query as withQuery } from '/console/api.js';
import { Say, button, field, form, h, section, select } from '/console/dom.js';
import { bytes, clock, count, many } from '/console/format.js';

const most = 300; // events on show
const kinds = { message: 'Messages', notice: 'Answers and notices', drop: 'Drops', lag: 'Delays' };
const labels = { message: 'message', notice: 'notice', drop: 'dropped', lag: 'delayed', skipped: 'not shown' };

const told = {
  drop: () => 'Messages were lost on the way to this client.',
  lag: () => 'The client reads too slowly: it catches up later.',
  skipped: (e) => `${many(e.count, 'event')} came too fast to be shown.`,
};

/** line is one event; its frame opens to the whole. */
function line(e) {
  const text = e.frame === undefined ? (told[e.kind]?.(e) ?? `A frame of ${bytes(e.bytes)}, too long to be shown.`) : JSON.stringify(e.frame);
  const facts = [e.node, e.room, e.user ?? e.session, e.offset ? `offset ${e.offset}` : '', e.members ? `to ${many(e.members, 'member')}` : '',
    e.bytes ? bytes(e.bytes) : '', e.queued ? `${bytes(e.queued)} wait for the client` : ''].filter(Boolean);
  const content = text.length > 160
    ? h('details', {}, h('summary', {}, h('code', {}, `${text.slice(0, 160)}…`)), h('pre', {}, JSON.stringify(e.frame, null, 2)))
    : h(e.frame === undefined ? 'span' : 'code', { class: 'break' }, text);
  return h('li', { 'data-kind': e.kind }, h('div', { class: 'what' }, h('time', {}, clock(e.at)), h('span', { class: 'kind' }, labels[e.kind] ?? e.kind),
    facts.map((f) => h('span', { class: 'soft break' }, f))), content);
}

class Tap {
  constructor(signal) {
    Object.assign(this, { counts: {}, waiting: [], paused: false, signal, running: null, say: new Say(), queued: 0 });
    this.list = h('ol', { class: 'tap', 'aria-label': 'Events, the newest first' });
    this.summary = h('p', { class: 'soft' });
    this.empty = h('p', { class: 'empty' }, 'Nothing yet.');
    this.show = new Set(Object.keys(kinds));
    this.filters = h('fieldset', { class: 'checks' }, h('legend', {}, 'Show'), Object.entries(kinds).map(([kind, text]) => {
      const box = h('input', { type: 'checkbox', checked: true, onchange: () => {
        this.show[box.checked ? 'add' : 'delete'](kind);
        for (const k of Object.keys(kinds)) this.list.classList.toggle(`no-${k}`, !this.show.has(k));
      } });
      return h('label', {}, box, ` ${text}`);
    }));
  }

  take(e) {
    if (e.kind === 'end') return;
    this.counts[e.kind] = (this.counts[e.kind] ?? 0) + (e.count || 1);
    this.queued = e.queued ?? 0;
    if (this.waiting.push(e) > most) this.waiting.shift();
    this.timer ??= setTimeout(() => this.draw(), 100); // many come at once
  }

  draw() {
    this.timer = null;
    const n = (kind) => this.counts[kind] ?? 0;
    this.summary.textContent = `${many(n('message'), 'message')}, ${many(n('notice'), 'notice')}, ${many(n('drop'), 'drop')}, ${many(n('lag'), 'delay')}${n('skipped') ? `, ${count(n('skipped'))} too fast to be shown` : ''}.`;
    if (this.paused) return;
    this.list.prepend(...this.waiting.reverse().map(line));
    this.waiting = [];
    while (this.list.children.length > most) this.list.lastChild.remove();
    this.empty.hidden = this.list.children.length > 0;
  }

  clear() {
    this.counts = {};
    this.waiting = [];
    this.list.replaceChildren();
    this.summary.textContent = '';
    this.empty.hidden = false;
  }

  async run(target, length, changed) {
    this.running?.abort();
    const mine = this.running = new AbortController();
    this.clear();
    this.say.put('…');
    changed();
    try {
      let reason = 'The stream broke off: control or the network went away.';
      for await (const { name, data } of events(withQuery('/v1/tap', { ...target, for: length }), AbortSignal.any([mine.signal, this.signal]))) {
        if (name === 'began') this.began(data);
        else if (name === 'end') reason = data.reason === 'the time is over' ? 'It is over: its time has passed.' : `It is over: ${data.reason}.`;
        else this.take(data);
      }
      if (this.running === mine) this.say.put(reason);
    } catch (error) {
      if (this.running === mine) this.say.bad(error.name === 'TypeError' ? new Error('The stream broke off: control or the network went away.') : error);
    }
    if (this.running === mine) {
      this.running = null;
      changed();
    }
  }

  began(reply) {
    const troubles = reply.nodes.filter((n) => n.error).map((n) => `${n.node} does not: ${n.error.reason} (${n.error.code}).`);
    if (reply.missing.length > 0) troubles.push(`${reply.missing.join(', ')} did not answer.`);
    const text = `Listening to ${many(reply.affected, 'connection')}; those that come are heard, too.`;
    if (troubles.length > 0) this.say.put(`${text} ${troubles.join(' ')}`, 'bad');
    else this.say.good(text);
  }

  stop() {
    this.running?.abort();
    this.running = null;
    this.say.put('Stopped.');
  }
}

export function tapPage({ query, keep, signal }) {
  const tap = new Tap(signal);
  const given = ['room', 'user', 'session'].find((k) => query.get(k)) ?? 'room';
  const kind = select([['room', 'Room'], ['user', 'User'], ['session', 'Session']], given);
  const name = h('input', { value: query.get(given), autocomplete: 'off', spellcheck: 'false', required: true });
  const length = select([['30s', '30 seconds'], ['2m', '2 minutes'], ['10m', '10 minutes']], query.get('for') ?? '2m');
  const start = h('button', { class: 'button' }, 'Start');
  const stop = button('Stop', () => { tap.stop(); changed(); });
  const pause = button('Pause', () => {
    tap.paused = !tap.paused;
    pause.setAttribute('aria-pressed', tap.paused);
    pause.textContent = tap.paused ? 'Go on' : 'Pause';
    tap.draw();
  });
  pause.setAttribute('aria-pressed', 'false');
  const changed = () => {
    start.textContent = tap.running ? 'Start anew' : 'Start';
    stop.disabled = !tap.running;
  };
  const run = () => {
    keep('tap', { [kind.value]: name.value, for: length.value === '2m' ? '' : length.value });
    tap.run({ [kind.value]: name.value }, length.value, changed);
  };
  changed();
  if (name.value) run(); // a link to a tap is one
  return [h('h1', {}, 'Tap'), section('Listen in', h('p', { class: 'soft' }, 'A copy of what clients get, which they do not notice. It needs a key with the scope admin.'),
    form({ class: 'row' }, run, field('What', kind), field('Name', name), field('For', length), h('div', { class: 'buttons' }, start, stop)), tap.say.element),
  section('Events, the newest first', h('div', { class: 'title' }, tap.filters, h('div', { class: 'buttons' }, pause, button('Clear', () => tap.clear()))), tap.summary, tap.empty, tap.list)];
}
