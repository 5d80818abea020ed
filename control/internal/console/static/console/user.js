// A user: where they are, and what an operator can do about it.
import { address, get, post } from '/console/api.js';
import { Say, Table, act, button, every, facts, field, form, h, section, select, sure } from '/console/dom.js';
import { bytes, count, obeyed, when } from '/console/format.js';
import { roomLink } from '/console/rooms.js';
import { lift } from '/console/users.js';

const links = (rooms) => rooms.flatMap((room, i) => (i === 0 ? [roomLink(room)] : [', ', roomLink(room)]));
const shownRooms = 20;

/** kick asks first, then ends connections: target is {user} or {session}. */
async function kick(target, title, pressed, say) {
  const reason = h('input', { maxlength: 64, autocomplete: 'off' });
  const answer = await sure({ title, action: 'Kick', fields: { reason: ['Reason, which the client is told', reason] },
    text: 'The connection ends, and its client does not come back by itself. To keep somebody out, block them.' });
  if (!answer) return;
  await act(pressed, say, async () => {
    say.good(obeyed('ended', await post('/v1/disconnect', answer.reason ? { ...target, reason: answer.reason } : target)));
  });
}

function sessions(user, say, load) {
  return new Table('Sessions', [
    { name: 'Session', make: (s) => h('code', { class: 'break' }, s.session) },
    { name: 'Node', make: (s) => h('a', { href: `#/nodes/${encodeURIComponent(s.node)}` }, s.node) },
    { name: 'Transport', text: (s) => s.transport ?? '–' }, { name: 'Connected', text: (s) => when(s.connected) },
    { name: 'Rooms', make: (s) => [...links(s.rooms.slice(0, shownRooms)), s.rooms.length > shownRooms ? ` and ${count(s.rooms.length - shownRooms)} more` : ''], key: (s) => s.rooms.join('\n') },
    { name: 'Waiting', number: true, text: (s) => bytes(s.queued) }, { name: 'Token ends', text: (s) => (s.expires ? when(s.expires * 1000) : '–') },
    { name: '', make: (s) => {
      const end = button('Kick…', async () => {
        await kick({ session: s.session }, `Kick one connection of ${user}?`, end, say);
        load();
      });
      end.setAttribute('aria-label', `Kick session ${s.session}…`);
      const list = [h('a', { class: 'button plain', href: `#/tap?session=${encodeURIComponent(s.session)}`, 'aria-label': `Tap session ${s.session}` }, 'Tap'), end];
      if (s.jti) {
        const revoke = button('Revoke token…', async () => {
          const yes = await sure({ title: 'Revoke this token?', action: 'Revoke it', text: `The token ${s.jti} is refused everywhere, and what is open with it is closed. Other tokens of ${user} stay good.` });
          if (yes) await act(revoke, say, async () => { await post('/v1/tokens/revoke', { jti: s.jti }); say.good('The token is revoked.'); });
          load();
        });
        list.push(revoke);
      }
      return h('div', { class: 'buttons' }, list);
    } },
  ], { key: (s) => s.session, empty: `${user} has no connection.` });
}

/** find asks edges and picture: what edges say now, and since when it is so. */
async function find(user, signal) {
  const [status, picture, blocks] = await Promise.all([get(address`/v1/users/${user}`, signal),
    get(address`/v1/users/${user}/presence`, signal), get('/v1/blocks', signal)]);
  const known = new Map(picture.sessions.map((s) => [s.session, s]));
  return { missing: status.missing, picture, block: blocks.blocks.find((b) => b.kind === 'user' && b.user === user),
    revoked: blocks.blocks.find((b) => b.kind !== 'user' && b.user === user),
    list: status.connections.map((c) => ({ ...c, connected: known.get(c.session)?.connected })) };
}

function keepOut(user, load) {
  const say = new Say();
  const time = select([['', 'for good'], ['10m', '10 minutes'], ['1h', '1 hour'], ['24h', '1 day'], ['168h', '7 days'], ['720h', '30 days'], ['other', 'another time…']], '24h');
  const other = h('input', { placeholder: '90m', autocomplete: 'off' });
  const otherField = field('Time, such as 90m', other);
  otherField.hidden = true;
  time.addEventListener('change', () => { otherField.hidden = time.value !== 'other'; });
  const reason = h('input', { maxlength: 512, autocomplete: 'off' });
  const unblock = button('Unblock', async () => { await lift(user, unblock, say); load(); });
  const revoke = button('Revoke all tokens…', async () => {
    const yes = await sure({ title: `Revoke the tokens of ${user}?`, action: 'Revoke them', text: 'Every token issued until now is refused, and what is open with one is closed. New tokens are good.' });
    if (yes) await act(revoke, say, async () => { await post('/v1/users/revoke', { user }); say.good('All tokens issued until now are revoked.'); });
    load();
  });
  const element = section('Keep out', form({ class: 'stack' }, async (pressed) => {
    await act(pressed, say, async () => {
      const length = time.value === 'other' ? other.value : time.value;
      const block = await post('/v1/users/block', { user, ...(length && { for: length }), ...(reason.value && { reason: reason.value }) });
      say.good(`${user} is blocked ${block.until ? `until ${when(block.until * 1000)}` : 'for good'}.`);
    });
    load();
  }, h('div', { class: 'row' }, field('Block', time), otherField, field('Reason, for operators', reason)), say.element,
  h('div', { class: 'buttons' }, h('button', { class: 'button danger' }, 'Block'), unblock, revoke)));
  return { element, unblock };
}

export function userPage({ name, signal }) {
  const say = new Say();
  const failed = new Say();
  const box = h('div', { class: 'card' }, '…');
  const load = async () => {
    try {
      const found = await find(name, signal);
      table.update(found.list);
      out.unblock.hidden = !found.block;
      const state = found.block ? `blocked ${found.block.until ? `until ${when(found.block.until * 1000)}` : 'for good'}${found.block.reason ? `: ${found.block.reason}` : ''}` : 'not blocked';
      box.replaceChildren(facts([['Connections', count(found.list.length)], ['Nodes', [...new Set(found.list.map((s) => s.node))].join(', ') || '–'],
        ['State', h('b', { 'data-mark': found.block ? 'warn' : 'good' }, state)], ['Tokens', found.revoked ? `revoked if issued before ${when(found.revoked.issued_before * 1000)}` : 'none revoked'],
        ['Info', h('code', { class: 'break' }, found.picture.sessions[0]?.info === undefined ? '–' : JSON.stringify(found.picture.sessions[0].info))]]));
      if (found.missing.length > 0) failed.bad(new Error(`${found.missing.join(', ')} did not answer: there may be more connections.`));
      else failed.clear();
    } catch (error) {
      failed.bad(error);
    }
  };
  const table = sessions(name, say, load);
  const out = keepOut(name, load);
  const all = button('Kick all…', async () => {
    await kick({ user: name }, `Kick all connections of ${name}?`, all, say);
    load();
  }, 'danger');
  every(3000, signal, load);
  return [h('div', { class: 'title' }, h('h1', { class: 'break' }, name), h('a', { class: 'button plain', href: `#/tap?user=${encodeURIComponent(name)}` }, 'Tap'),
    h('a', { class: 'button plain', href: `#/explain?user=${encodeURIComponent(name)}` }, 'Explain')), failed.element, box,
  section('Sessions', say.element, table.element, h('div', { class: 'buttons' }, all)), out.element, h('p', {}, h('a', { href: '#/users' }, 'Users and blocks'))];
}
