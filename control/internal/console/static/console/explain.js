// Explain: may X do Y in room Z, and which rule said so.
import { post } from '/console/api.js';
import { Say, act, field, form, h, section, select } from '/console/dom.js';

const actions = [['subscribe', 'subscribe'], ['publish', 'publish'], ['history', 'read history'], ['presence', 'see who is there']];

/** one is an explanation: its rules in the order in which they were asked. */
function one(e) {
  const who = e.user || e.session ? [e.user ?? 'anonymous', e.session].filter(Boolean).join(', session ') : '';
  return h('li', {}, h('p', {}, h('b', { 'data-mark': e.allowed ? 'good' : 'bad' }, e.allowed ? 'Allowed' : 'Refused'), who && ` · ${who}`),
    h('ol', { class: 'rules' }, e.rules.map((r, i) => h('li', { 'data-allows': r.allows }, h('span', { class: 'hidden' }, r.allows ? 'passes: ' : 'refuses: '),
      h('code', {}, r.rule), ' ', r.text, i === e.rules.length - 1 && h('b', {}, ' This decided.')))));
}

export function explainPage({ query, keep, signal }) {
  const say = new Say();
  const room = h('input', { value: query.get('room'), required: true, autocomplete: 'off', spellcheck: 'false' });
  const action = select(actions, query.get('action') ?? 'subscribe');
  const given = query.get('user') ? 'user' : (query.get('who') ?? 'anonymous');
  const who = select([['anonymous', 'somebody without a token'], ['user', 'a user who is connected'], ['token', 'who has a token']], given);
  const name = h('input', { value: query.get('user'), autocomplete: 'off', spellcheck: 'false' });
  const token = h('input', { type: 'password', autocomplete: 'off', spellcheck: 'false' });
  const nameField = field('User', name);
  const tokenField = field('Token', token, 'It is sent to control and kept nowhere');
  const choose = () => {
    nameField.hidden = who.value !== 'user';
    tokenField.hidden = who.value !== 'token';
    name.required = who.value === 'user';
    token.required = who.value === 'token';
  };
  who.addEventListener('change', choose);
  choose();
  const result = h('ul', { class: 'explanations' });
  const ask = h('button', { class: 'button' }, 'Explain');
  const run = () => act(ask, say, async () => {
    result.replaceChildren();
    keep('explain', { room: room.value, action: action.value, who: who.value === 'token' ? 'token' : '', user: who.value === 'user' ? name.value : '' });
    const caller = { anonymous: { anonymous: true }, user: { user: name.value }, token: { token: token.value } }[who.value];
    const reply = await post('/v1/explain', { room: room.value, action: action.value, ...caller }, signal);
    if (reply.allowed) say.good(`Yes: that is allowed in ${reply.room}.`);
    else say.put(`No: that is refused in ${reply.room}.`, 'bad');
    result.replaceChildren(...reply.explanations.map(one));
  });
  if (room.value && (who.value !== 'token') && (who.value !== 'user' || name.value)) run(); // a link to an answer is one
  return [h('h1', {}, 'Explain'), section('May somebody do that?', form({ class: 'row' }, run, field('May', who), nameField, tokenField, field('do this', action), field('in room', room),
    h('div', { class: 'buttons' }, ask)), say.element, result)];
}
