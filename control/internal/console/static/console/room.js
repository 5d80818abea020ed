// A room: who is in it, what was said, and a message by hand.
import { address, get, post, query as withQuery, remove } from '/console/api.js';
import { Say, Table, act, button, every, facts, field, form, h, section, select, sure } from '/console/dom.js';
import { clock, count, rate, when } from '/console/format.js';
import { userLink } from '/console/users.js';

const size = 50;

/** body is what a message or a frame holds, as text. */
export function body(m) {
  if (m.data !== undefined) return JSON.stringify(m.data);
  return m.text ?? (m.base64 !== undefined ? `base64 ${m.base64}` : '');
}

function summary(room, signal) {
  const box = h('div', { class: 'card' }, '…');
  every(2000, signal, async () => {
    try {
      const page = await get(withQuery('/v1/rooms', { prefix: room, limit: 1 }), signal); // by name: the room itself comes first
      const r = page.rooms[0]?.room === room ? page.rooms[0] : { members: 0, rate: 0, nodes: 0 };
      box.replaceChildren(facts([['Connections', count(r.members)], ['Users', r.users == null ? '–' : count(r.users)],
        ['Anonymous', r.anonymous == null ? '–' : count(r.anonymous)], ['Messages/s', rate(r.rate)], ['Nodes with members', count(r.nodes)]]));
    } catch (error) {
      const say = new Say();
      say.bad(error);
      if (error.name !== 'AbortError') box.replaceChildren(say.element);
    }
  });
  return box;
}

function members(room, signal) {
  const say = new Say();
  const table = new Table('Members', [
    { name: 'User', make: (m) => userLink(m.user) }, { name: 'Connections', number: true, text: (m) => (m.connections === 0 ? '0, may come back' : count(m.connections)) },
    { name: 'Info', make: (m) => h('code', { class: 'break' }, m.info === undefined ? '' : JSON.stringify(m.info)), key: (m) => JSON.stringify(m.info) ?? '' },
  ], { key: (m) => m.user, empty: 'No user is in it, or its policy keeps no presence: then only connections are counted.' });
  const before = [];
  let after = '';
  let next = '';
  const load = async () => {
    try {
      const page = await get(withQuery(address`/v1/rooms/${room}/presence`, { limit: size, after }), signal);
      next = page.next ?? '';
      table.update(page.members);
      say.clear();
    } catch (error) {
      say.bad(error);
    }
    back.disabled = before.length === 0;
    on.disabled = next === '';
  };
  const back = button('Previous', () => { after = before.pop() ?? ''; load(); });
  const on = button('Next', () => { before.push(after); after = next; load(); });
  every(5000, signal, load);
  return section('Members', say.element, table.element, h('div', { class: 'buttons' }, back, on));
}

class Stored {
  constructor(room, signal) {
    Object.assign(this, { room, signal, before: 0, next: 0, say: new Say() });
    this.table = new Table('Stored messages', [
      { name: 'Offset', number: true, text: (m) => m.offset }, { name: 'Time', text: (m) => when(Date.parse(m.time)) }, { name: 'User', text: (m) => m.user ?? '–' },
      { name: 'Event', text: (m) => m.event ?? '–' }, { name: 'Body', make: (m) => h('code', { class: 'break' }, body(m)) },
    ], { key: (m) => `${m.epoch} ${m.offset}`, empty: 'Nothing is stored.' });
    this.newest = button('Newest', () => { this.before = 0; this.load(); });
    this.older = button('Older', () => { this.before = this.next; this.load(); });
    this.purge = button('Purge…', () => this.empty(), 'danger');
    this.element = section('Stored messages, the newest first', this.say.element, this.table.element, h('div', { class: 'buttons' }, this.newest, this.older, this.purge));
  }
  async load() {
    try {
      const page = await get(withQuery(address`/v1/rooms/${this.room}/history`, { limit: 20, before: this.before || '' }), this.signal);
      this.next = page.more ? page.next : 0;
      this.table.update(page.messages.toReversed());
      this.older.disabled = !page.more;
      this.purge.disabled = false;
      if (this.say.element.dataset.kind === 'bad') this.say.clear();
    } catch (error) {
      this.say.bad(error);
      this.older.disabled = this.purge.disabled = true;
      if (error.code === 'no_history') {
        this.table.element.hidden = true;
        return false;
      }
    }
    return true;
  }
  async empty() {
    const yes = await sure({ title: 'Purge what is stored?', action: 'Purge it', typed: this.room,
      text: `All messages that are stored of ${this.room} up to now are removed for good. Clients that come back are told that they are gone.` });
    if (!yes) return;
    await act(this.purge, this.say, async () => {
      const reply = await remove(address`/v1/rooms/${this.room}/history`);
      this.before = 0;
      await this.load();
      this.say.good(`It is purged up to offset ${reply.up_to}.`);
    });
  }
}

function publish(room, done) {
  const say = new Say();
  const kind = select([['data', 'JSON'], ['text', 'text'], ['base64', 'bytes, in base64']], 'data');
  const text = h('textarea', { required: true, spellcheck: 'false', placeholder: '{"title":"Goal!"}' });
  const more = Object.fromEntries([['event', 'Event'], ['user', 'User'], ['key', 'Key']].map(([name, label]) => [name, [label, h('input', { autocomplete: 'off' })]]));
  return section('Publish by hand', form({ class: 'stack' }, (pressed) => act(pressed, say, async () => {
    const request = Object.fromEntries(Object.entries(more).map(([name, [, input]]) => [name, input.value]).filter(([, value]) => value));
    try {
      request[kind.value] = kind.value === 'data' ? JSON.parse(text.value) : text.value;
    } catch (error) {
      throw new Error(`This is not JSON: ${error.message}`);
    }
    const { published } = await post(address`/v1/rooms/${room}`, request);
    say.good(published.offset ? `Published at offset ${published.offset}, ${clock(Date.now())}.` : `Published, ${clock(Date.now())}.`);
    done();
  }), field('Body is', kind), field('Body', text),
  h('details', {}, h('summary', {}, 'Event, user, key'), h('div', { class: 'row' }, Object.values(more).map(([label, input]) => field(label, input)))),
  say.element, h('div', { class: 'buttons' }, h('button', { class: 'button' }, 'Publish'))));
}

export function roomPage({ name, signal }) {
  const stored = new Stored(name, signal);
  let keeps = true;
  every(5000, signal, async () => {
    if (keeps && stored.before === 0) keeps = await stored.load();
  });
  return [h('div', { class: 'title' }, h('h1', { class: 'break' }, name), h('a', { class: 'button plain', href: `#/tap?room=${encodeURIComponent(name)}` }, 'Tap'),
    h('a', { class: 'button plain', href: `#/explain?room=${encodeURIComponent(name)}` }, 'Explain')), summary(name, signal),
  h('div', { class: 'pair' }, members(name, signal), publish(name, () => { if (keeps) stored.load(); })), stored.element, h('p', {}, h('a', { href: '#/rooms' }, 'All rooms'))];
}
