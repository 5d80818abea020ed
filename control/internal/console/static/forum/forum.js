// The forum: topics are rooms forum.<topic>. The reader's side uses one
// WebSocket; the moderator's form posts to control, which publishes over NATS as
// any backend would.
import { Connection, findEdge, showState } from '/nabat-lite.js';
import { keep, kept } from '/forum/items.js';

const topics = ['sports', 'politics', 'music', 'science', 'local'];
const $ = (id) => document.getElementById(id);
const room = (topic) => `forum.${topic}`;
const capital = (s) => s[0].toUpperCase() + s.slice(1);

const connection = new Connection(await findEdge());
const buttons = new Map();
const shown = new Set();
let messages = 0;
let gaps = 0;
let thisSecond = 0;
const seconds = new Array(60).fill(0);

showState(connection, $('state'));
connection.addEventListener('connected', ({ detail }) => {
  $('session').textContent = detail.session;
  $('node').textContent = detail.node;
  $('trouble').textContent = '';
});
connection.addEventListener('message', ({ detail }) => show(detail));
connection.addEventListener('gap', ({ detail }) => {
  $('gaps').textContent = ++gaps;
  const item = element('li', 'item gap');
  item.append(element('p', 'soft', `Something may be missing in ${detail.room.replace('forum.', '')} (${detail.reason}).`));
  $('feed').prepend(item);
});
connection.addEventListener('error', ({ detail }) => {
  $('trouble').dataset.kind = 'bad';
  $('trouble').textContent = detail.code === 'not_allowed' ? 'You may not read this topic.' : `That did not work: ${detail.reason}`;
});

function element(tag, className = '', text = '') {
  const e = document.createElement(tag);
  e.className = className;
  e.textContent = text;
  return e;
}

// Topics: pressing joins the room, pressing again leaves it.
const remembered = new Set(JSON.parse(sessionStorage.getItem('topics') || '[]'));
for (const topic of topics) {
  const button = element('button', 'topic', capital(topic));
  button.type = 'button';
  button.id = `topic-${topic}`;
  const badge = element('span', 'badge', '0');
  badge.hidden = true;
  button.append(badge);
  button.addEventListener('click', () => toggle(topic));
  const li = element('li');
  li.append(button);
  $('topics').append(li);
  $('topic').append(new Option(capital(topic), topic));
  buttons.set(topic, { button, badge, unread: 0 });
  button.setAttribute('aria-pressed', 'false');
  if (remembered.has(topic)) toggle(topic);
}

function toggle(topic) {
  const { button } = buttons.get(topic);
  const open = button.getAttribute('aria-pressed') !== 'true';
  button.setAttribute('aria-pressed', String(open));
  if (open) connection.join(room(topic), { since: '1h' }); else connection.leave(room(topic));
  if (open) remembered.add(topic); else remembered.delete(topic);
  sessionStorage.setItem('topics', JSON.stringify([...remembered]));
  read(topic);
}

function read(topic) {
  const entry = buttons.get(topic);
  entry.unread = 0;
  entry.badge.hidden = true;
}

function card(item) {
  const li = element('li', 'item');
  const link = element('a', '', item.title);
  link.href = `/forum/read/?id=${encodeURIComponent(item.id)}`;
  link.addEventListener('click', () => read(item.topic));
  li.append(element('span', 'small soft', `${capital(item.topic)} · ${item.author} · ${new Date(item.at).toLocaleTimeString()}`), element('br'), link);
  if (item.body) li.append(element('p', 'soft', item.body.length > 180 ? `${item.body.slice(0, 180)}…` : item.body));
  return li;
}

function show(message) {
  $('count').textContent = ++messages;
  thisSecond++;
  const item = { title: '(no headline)', author: message.user || 'unknown', body: '', at: Date.now(), ...message.data, topic: message.room.replace('forum.', '') };
  if (message.text) item.title = message.text;
  item.id = String(item.id || crypto.randomUUID());
  if (shown.has(item.id)) return; // it was there before this page was opened again
  shown.add(item.id);
  keep(item);
  $('empty').hidden = true;
  $('feed').prepend(card(item));
  while ($('feed').children.length > 100) $('feed').lastChild.remove();
  if (Date.now() - item.at > 30000) return; // from the room's history: no news
  const entry = buttons.get(item.topic);
  if (entry) {
    entry.badge.textContent = ++entry.unread;
    entry.badge.hidden = false;
    entry.badge.setAttribute('aria-label', `${entry.unread} unread`);
  }
  toast(item);
}

function toast(item) {
  const link = element('a', 'toast');
  link.href = `/forum/read/?id=${encodeURIComponent(item.id)}`;
  link.append(element('b', '', item.title), element('span', 'small', `${capital(item.topic)} · ${item.author}`));
  $('toasts').append(link);
  while ($('toasts').children.length > 3) $('toasts').firstChild.remove();
  setTimeout(() => link.remove(), 8000);
  if (globalThis.Notification?.permission === 'granted' && document.hidden) {
    new Notification(item.title, { body: `${capital(item.topic)} · ${item.author}`, tag: item.id }).onclick = () => { location.href = link.href; };
  }
}

// The moderator's desk.
$('form').addEventListener('submit', async (event) => {
  event.preventDefault();
  const { topic, title, body, author } = Object.fromEntries(new FormData($('form')));
  $('publish').disabled = true;
  const item = { id: crypto.randomUUID(), topic, title, body, author: author || 'Moderator', at: Date.now() };
  let kind = 'good';
  let words = `Published in ${capital(topic)}.`;
  try {
    const reply = await fetch('/v1/publish', { method: 'POST', headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ room: room(topic), data: item, event: 'news' }) });
    if (!reply.ok) throw new Error((await reply.json()).error.reason);
    $('title').value = $('body').value = '';
    $('title').focus();
  } catch (error) {
    kind = 'bad';
    words = `Not published: ${error.message}`;
  }
  $('answer').dataset.kind = kind;
  $('answer').textContent = words;
  $('publish').disabled = false;
});

if (globalThis.Notification?.permission === 'default') {
  $('notify').hidden = false;
  $('notify').addEventListener('click', async () => { $('notify').hidden = (await Notification.requestPermission()) !== 'default'; });
}

for (const item of kept().slice(-20)) { shown.add(item.id); $('empty').hidden = true; $('feed').prepend(card(item)); }

setInterval(() => {
  seconds.push(thisSecond);
  seconds.shift();
  $('rate').textContent = thisSecond;
  thisSecond = 0;
  const top = Math.max(4, ...seconds);
  const points = seconds.map((n, i) => `${i},${19 - (n / top) * 17}`).join(' ');
  $('spark').innerHTML = `<polyline points="${points}" fill="none" stroke="currentColor" stroke-width="1.5" vector-effect="non-scaling-stroke"/>`;
}, 1000);
