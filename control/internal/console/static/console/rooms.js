// Rooms: the list, by members, rate or name; control pages through it.
import { get, query as withQuery } from '/console/api.js';
import { Say, Table, button, every, field, form, h, section, select } from '/console/dom.js';
import { count, rate } from '/console/format.js';

const size = 50;

export const roomLink = (room) => h('a', { href: `#/rooms/${encodeURIComponent(room)}`, class: 'break' }, room);

export function roomsPage({ query, keep, signal }) {
  const say = new Say();
  const total = h('p', { class: 'soft', role: 'status' });
  const sort = select([['members', 'members, the most first'], ['rate', 'messages a second, the most first'], ['name', 'name']], query.get('sort') ?? 'members');
  const search = h('input', { type: 'search', value: query.get('search'), autocomplete: 'off', spellcheck: 'false' });
  const prefix = h('input', { type: 'search', value: query.get('prefix'), autocomplete: 'off', spellcheck: 'false' });
  const table = new Table('Rooms', [
    { name: 'Room', make: (r) => roomLink(r.room) }, { name: 'Members', number: true, text: (r) => count(r.members) },
    { name: 'Users', number: true, text: (r) => (r.users == null ? '–' : count(r.users)) }, { name: 'Anonymous', number: true, text: (r) => (r.anonymous == null ? '–' : count(r.anonymous)) },
    { name: 'Messages/s', number: true, text: (r) => rate(r.rate) }, { name: 'Nodes', number: true, text: (r) => count(r.nodes) },
  ], { key: (r) => r.room, empty: 'No room is like that. Rooms without members are not listed: open one by its name.' });
  let before = []; // where the pages before this one began
  let after = query.get('after') ?? '';
  let next = '';
  let asking = null;
  const go = (to) => {
    after = to;
    load();
    table.element.scrollIntoView({ block: 'nearest' });
  };
  const first = button('First page', () => { before = []; go(''); });
  const back = button('Previous', () => go(before.pop() ?? ''));
  const on = button('Next', () => { before.push(after); go(next); });

  async function load() {
    asking?.abort();
    const mine = asking = new AbortController();
    const shown = { sort: sort.value, search: search.value, prefix: prefix.value, after };
    keep('rooms', { ...shown, sort: sort.value === 'members' ? '' : sort.value });
    try {
      const page = await get(withQuery('/v1/rooms', { ...shown, limit: size }), AbortSignal.any([mine.signal, signal]));
      next = page.next ?? '';
      table.update(page.rooms);
      total.textContent = `${count(page.rooms.length)} of ${count(page.total)} rooms that have members`;
      say.clear();
    } catch (error) {
      say.bad(error);
    }
    first.disabled = back.disabled = after === '';
    on.disabled = next === '';
  }
  const again = () => { before = []; go(''); };
  let wait;
  const later = () => {
    clearTimeout(wait);
    wait = setTimeout(again, 250);
  };
  sort.addEventListener('change', again);
  for (const input of [search, prefix]) input.addEventListener('input', later);
  const name = h('input', { autocomplete: 'off', spellcheck: 'false', required: true });
  every(5000, signal, load);
  return [h('h1', {}, 'Rooms'),
    section('All rooms with members', form({ class: 'row' }, again, field('Contains', search), field('Begins with', prefix), field('Order', sort)), say.element, total, table.element,
      h('div', { class: 'buttons' }, first, back, on)),
    section('Open a room', form({ class: 'row' }, () => { location.hash = `#/rooms/${encodeURIComponent(name.value)}`; },
      field('Room', name), h('div', { class: 'buttons' }, h('button', { class: 'button plain' }, 'Open'))))];
}
