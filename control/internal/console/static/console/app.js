// The console's frame: who may come in, which page is shown, what the hash says.
import { Refused, doors, get, key, words } from '/console/api.js';
import { Say, act, field, form, h } from '/console/dom.js';
import { figures } from '/console/figures.js';
import { explainPage } from '/console/explain.js';
import { keysPage } from '/console/keys.js';
import { nodePage, nodesPage } from '/console/nodes.js';
import { overviewPage } from '/console/overview.js';
import { roomPage } from '/console/room.js';
import { roomsPage } from '/console/rooms.js';
import { tapPage } from '/console/tap.js';
import { userPage } from '/console/user.js';
import { usersPage } from '/console/users.js';

const $ = (id) => document.getElementById(id);
const pages = {
  overview: ['Overview', overviewPage], nodes: ['Nodes', nodesPage, nodePage], rooms: ['Rooms', roomsPage, roomPage], users: ['Users', usersPage, userPage],
  tap: ['Tap', tapPage], explain: ['Explain', explainPage], keys: ['API keys', keysPage],
};
let shown = null; // an AbortController: what the page on show began ends with it
let locked = true;

/** route reads the hash: #/rooms/chat.42?x=y is a page, a name and a query. */
function route() {
  const [path, query] = location.hash.replace(/^#\/?/, '').split(/\?(.*)/s);
  const [page, ...rest] = path.split('/');
  let name = rest.join('/');
  try {
    name = decodeURIComponent(name);
  } catch {
    // A hash that somebody typed: the name is what stands there.
  }
  return { page: page in pages ? page : 'overview', name, query: new URLSearchParams(query ?? '') };
}

/** keep writes what a page shows into the hash, without a new page. */
export function keep(page, query) {
  const text = new URLSearchParams(Object.entries(query).filter(([, value]) => value)).toString();
  history.replaceState(null, '', text ? `#/${page}?${text}` : `#/${page}`);
}

function show(focus) {
  if (locked) return;
  const { page, name, query } = route();
  const [title, list, one] = pages[page];
  shown?.abort();
  document.querySelector('dialog')?.close(); // it asked about the page that goes
  shown = new AbortController();
  for (const tab of $('tabs').children) {
    if (tab.dataset.page !== page) tab.removeAttribute('aria-current');
    else if (!tab.hasAttribute('aria-current')) {
      tab.setAttribute('aria-current', 'page');
      tab.scrollIntoView({ block: 'nearest', inline: 'center' }); // on a phone not all are in sight
    }
  }
  document.title = `${name && one ? name : title} · Nabat console`;
  const fn = name && one ? one : list;
  $('view').replaceChildren(...[fn({ name, query, keep, signal: shown.signal })].flat());
  if (focus) {
    scrollTo(0, 0);
    $('view').focus({ preventScroll: true });
  }
}

function enter() {
  locked = false;
  $('tabs').hidden = false;
  $('out').hidden = key.get() === '';
  figures.start();
  show(false);
}

/** lock shows the login in place of everything. */
function lock(problem) {
  if (locked && $('login')) return;
  locked = true;
  figures.stop();
  shown?.abort();
  $('tabs').hidden = true;
  $('out').hidden = true;
  pill('stopped', 'signed out');
  const say = new Say();
  if (problem) say.bad(problem);
  const secret = h('input', { type: 'password', autocomplete: 'off', spellcheck: 'false', required: true, id: 'key' });
  const login = form({ id: 'login', class: 'card stack login' }, (pressed) => act(pressed, say, async () => {
    key.set(secret.value.trim());
    try {
      await get('/v1/nodes');
    } catch (error) {
      // A key that is for other things than this is one all the same.
      if (!(error instanceof Refused) || error.status !== 403) {
        key.clear();
        throw error;
      }
    }
    login.remove();
    enter();
  }), h('h1', {}, 'Sign in'),
  h('p', { class: 'soft' }, 'The API wants a key: control’s own (api_key), or one that “nabat apikey create” made. It stays in this tab, and is gone when you close it.'),
  field('API key', secret), say.element, h('div', {}, h('button', { class: 'button' }, 'Sign in')));
  $('view').replaceChildren(login);
  secret.focus();
}

function pill(state, text) {
  const element = $('state');
  element.dataset.state = state;
  if (element.textContent !== text) element.textContent = text;
}

$('tabs').append(...Object.entries(pages).map(([page, [title]]) => h('a', { href: `#/${page}`, 'data-page': page }, title)));
$('out').addEventListener('click', () => {
  key.clear();
  lock();
});
$('skip').addEventListener('click', (event) => {
  event.preventDefault(); // the hash is the page's
  $('view').focus();
});
doors.addEventListener('locked', ({ detail }) => {
  if (detail.shown) key.clear();
  lock(detail.shown ? detail.problem : null);
});
addEventListener('hashchange', () => show(true));
figures.addEventListener('change', () => {
  if (locked) return;
  if (!figures.error) pill('live', 'live');
  else if (figures.error.status === 403) pill('waiting', 'live figures need a key with the scope read');
  else pill('waiting', 'control does not answer');
});

// A key may not be needed, in development: asking tells.
async function begin() {
  try {
    await get('/v1/nodes');
    enter();
  } catch (error) {
    if (error.status === 401) return; // doors has told
    if (error.status === 403) {
      enter();
      return;
    }
    pill('waiting', 'control does not answer');
    $('view').replaceChildren(h('p', { class: 'empty', role: 'alert' }, words(error), ' The page tries again.'));
    setTimeout(begin, 2000);
  }
}
begin();
