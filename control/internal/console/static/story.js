// What the stories share: who you are, the connection, and its state in words.
import { connect } from '/nabat-client.js';
import { findEdge } from '/nabat-lite.js';

export const $ = (id) => document.getElementById(id);

export function element(tag, className = '', text = '') {
  const e = document.createElement(tag);
  e.className = className;
  e.textContent = text;
  return e;
}

// me is this tab's user, for as long as it is open: ?name= in the address chooses the name.
// Your application takes it from the token: messages carry it as user.
const names = ['Otter', 'Heron', 'Lynx', 'Marten', 'Wren', 'Hare', 'Finch', 'Badger', 'Newt', 'Swift'];
export const me = JSON.parse(sessionStorage.getItem('me') ?? 'null') ?? {
  id: crypto.getRandomValues(new Uint32Array(2)).join('-'),
  name: new URLSearchParams(location.search).get('name') || names[Math.floor(Math.random() * names.length)],
};
sessionStorage.setItem('me', JSON.stringify(me));

// hue gives everybody a colour of their own.
export const hue = (id) => [...String(id)].reduce((sum, c) => (sum * 31 + c.charCodeAt(0)) % 360, 7);

// login gets a token for me. In your application a backend asks control for it, once
// somebody has logged in; on a development machine control is open to this page.
export async function login(grant) {
  const answer = await fetch('/v1/tokens', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ sub: me.id, info: { name: me.name }, ttl: '1h', ...grant }),
  });
  const { token, error } = await answer.json();
  if (error) throw new Error(error.reason);
  return token;
}

// open connects to the edge, and shows the connection's state in the top bar.
export async function open(options = {}) {
  const client = connect(await findEdge(), options);
  client.on('state', ({ state, ms, error }) => {
    $('state').dataset.state = state;
    $('state').textContent = {
      connecting: 'connecting…', live: 'live', waiting: `reconnecting in ${Math.ceil(ms / 1000)} s`,
      stopped: `stopped: ${error?.code}`, closed: 'closed',
    }[state];
  });
  return client;
}
