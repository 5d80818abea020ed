// API keys: make one, give it another secret, end it.
import { address, get, post, remove } from '/console/api.js';
import { Say, Table, act, button, every, field, form, h, section, select, sure } from '/console/dom.js';
import { when } from '/console/format.js';

const scopes = [['publish', 'publish messages'], ['read', 'read whatever changes nothing'], ['tokens', 'issue and revoke tokens'],
  ['users', 'kick, block, subscribe users'], ['admin', 'everything']];
const list = (text) => text.split(/[\s,]+/).filter(Boolean);

function state(k) {
  if (k.revoked) return `revoked ${when(Date.parse(k.revoked))}`;
  if (k.expires) return `${Date.parse(k.expires) < Date.now() ? 'expired' : 'until'} ${when(Date.parse(k.expires))}`;
  return 'good for ever';
}
const ended = (k) => Boolean(k.revoked) || (k.expires && Date.parse(k.expires) < Date.now());

/** once shows a secret: nobody can read it again. */
function once(holder, { key, secret }) {
  const copied = new Say();
  const text = h('input', { readonly: true, value: secret, class: 'secret', onfocus: () => text.select() });
  holder.replaceChildren(h('div', { class: 'secret-box' }, field(`The secret of ${key.name || key.id}: it is shown this one time`, text),
    h('div', { class: 'buttons' }, button('Copy', async () => {
      try {
        await navigator.clipboard.writeText(secret);
        copied.good('Copied.');
      } catch {
        copied.bad(new Error('The browser does not let the page copy: select it and copy it yourself.'));
      }
    }), button('I have it', () => holder.replaceChildren())), copied.element));
  text.focus();
}

function creation(secrets, load) {
  const say = new Say();
  const name = h('input', { maxlength: 200, autocomplete: 'off' });
  const boxes = scopes.map(([value, text]) => [value, text, h('input', { type: 'checkbox', value })]);
  const verbs = h('input', { autocomplete: 'off', spellcheck: 'false', placeholder: 'history, explain' });
  const rooms = h('input', { autocomplete: 'off', spellcheck: 'false', placeholder: 'orders.>, chat.*' });
  const time = select([['', 'for ever'], ['24h', '1 day'], ['168h', '7 days'], ['720h', '30 days'], ['2160h', '90 days'], ['8760h', '1 year']], '2160h');
  return section('Make a key', form({ class: 'stack' }, (pressed) => act(pressed, say, async () => {
    const request = { name: name.value, scopes: [...boxes.filter(([, , box]) => box.checked).map(([value]) => value), ...list(verbs.value)] };
    if (rooms.value) request.rooms = list(rooms.value);
    if (time.value) request.ttl = time.value;
    once(secrets, await post('/v1/apikeys', request));
    say.good('It is made: its secret stands above.');
    load();
  }), field('Name, for people', name), h('fieldset', { class: 'checks' }, h('legend', {}, 'It may'), boxes.map(([value, text, box]) => h('label', {}, box, ` ${text} `, h('code', {}, value)))),
  h('div', { class: 'row' }, field('Single verbs', verbs, 'Beside the scopes, or instead'), field('Only for rooms', rooms, 'Patterns; empty: all'), field('Good', time)),
  say.element, h('div', { class: 'buttons' }, h('button', { class: 'button' }, 'Make it'))));
}

export function keysPage({ signal }) {
  const say = new Say();
  const failed = new Say();
  const secrets = h('div', { 'aria-live': 'polite' });
  const load = async () => {
    try {
      table.update((await get('/v1/apikeys', signal)).keys);
      failed.clear();
    } catch (error) {
      failed.bad(error);
    }
  };
  const actions = (k) => {
    if (ended(k)) return null;
    const rotate = button('Rotate…', async () => {
      const grace = select([['1h', '1 hour'], ['0s', 'not at all'], ['24h', '1 day'], ['168h', '7 days']], '1h');
      const answer = await sure({ title: `Give ${k.name || k.id} another secret?`, action: 'Rotate it', fields: { grace: ['The old one is accepted for', grace] },
        text: 'You are shown the new secret once. Give it to whoever uses the key before the old one ends.' });
      if (answer) await act(rotate, say, async () => { once(secrets, await post(address`/v1/apikeys/${k.id}/rotate`, { grace: answer.grace })); say.clear(); });
      load();
    });
    const revoke = button('Revoke…', async () => {
      const yes = await sure({ title: `Revoke ${k.name || k.id}?`, action: 'Revoke it', text: 'Whoever uses it is refused within a second, for good.' });
      if (yes) await act(revoke, say, async () => { await remove(address`/v1/apikeys/${k.id}`); say.good(`${k.name || k.id} is revoked.`); });
      load();
    });
    rotate.setAttribute('aria-label', `Rotate ${k.name || k.id}…`);
    revoke.setAttribute('aria-label', `Revoke ${k.name || k.id}…`);
    return h('div', { class: 'buttons' }, rotate, revoke);
  };
  const table = new Table('API keys', [
    { name: 'Name', text: (k) => k.name || '–' }, { name: 'Id', text: (k) => k.id }, { name: 'May', text: (k) => k.scopes.join(', ') },
    { name: 'Rooms', text: (k) => k.rooms?.join(', ') ?? 'all' }, { name: 'Made', text: (k) => when(Date.parse(k.created)) },
    { name: 'State', text: state, mark: (k) => (ended(k) ? 'warn' : 'good') }, { name: '', make: actions, key: (k) => String(ended(k)) },
  ], { key: (k) => k.id, empty: 'There is no key but control’s own.' });
  every(10_000, signal, load);
  return [h('h1', {}, 'API keys'), secrets, section('Keys', say.element, failed.element, table.element), creation(secrets, load)];
}
