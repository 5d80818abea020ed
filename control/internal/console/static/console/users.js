// Users: find one, and who is kept out.
import { get, post } from '/console/api.js';
import { Say, Table, act, button, every, field, form, h, section } from '/console/dom.js';
import { when } from '/console/format.js';

export const userLink = (user) => h('a', { href: `#/users/${encodeURIComponent(user)}`, class: 'break' }, user);

/** lift ends the block of a user. */
export async function lift(user, pressed, say) {
  await act(pressed, say, async () => {
    const reply = await post('/v1/users/unblock', { user });
    say.good(reply.was_blocked ? `${user} is not blocked any more.` : `${user} was not blocked.`);
  });
}

const what = { user: 'blocked', token: 'token revoked', issued: 'tokens revoked' };

export function usersPage({ signal }) {
  const name = h('input', { id: 'user', autocomplete: 'off', spellcheck: 'false', required: true });
  const say = new Say();
  const failed = new Say();
  const table = new Table('Blocks', [
    { name: 'What', text: (b) => what[b.kind] ?? b.kind },
    { name: 'Whom', make: (b) => (b.user ? userLink(b.user) : h('code', { class: 'break' }, b.jti)) },
    { name: 'Since', text: (b) => when(b.created * 1000) }, { name: 'Until', text: (b) => (b.until ? when(b.until * 1000) : 'for good') },
    { name: 'Reason', text: (b) => b.reason ?? '–' },
    { name: '', make: (b) => {
      if (b.kind !== 'user') return null;
      const element = button('Unblock', async () => {
        await lift(b.user, element, say);
        await load();
      });
      element.setAttribute('aria-label', `Unblock ${b.user}`);
      return element;
    } },
  ], { key: (b) => `${b.kind} ${b.user ?? b.jti}`, empty: 'Nobody is blocked, and no token is revoked.' });
  const load = async () => {
    try {
      table.update((await get('/v1/blocks', signal)).blocks);
      failed.clear();
    } catch (error) {
      failed.bad(error);
    }
  };
  every(5000, signal, load);
  return [h('h1', {}, 'Users'),
    section('Find a user', form({ class: 'row' }, () => { location.hash = `#/users/${encodeURIComponent(name.value)}`; },
      field('User, as the token names them', name), h('div', { class: 'buttons' }, h('button', { class: 'button' }, 'Find')))),
    section('Blocks and revoked tokens', say.element, failed.element, table.element)];
}
