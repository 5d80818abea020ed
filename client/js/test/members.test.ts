// The list of who is in a room, against pages and changes in any order.
import assert from 'node:assert/strict';
import { test, type TestContext } from 'node:test';
import { Members } from '../src/members.js';
import { NabatError, type Member, type PresenceChange, type PresencePage } from '../src/protocol.js';
import { Room, type PresenceOptions, type RoomHost } from '../src/room.js';

/** rig is a joined room whose pages come when the test lets them. */
function rig(t: TestContext, max?: number) {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const asked: PresenceOptions[] = [];
  const waiting: ((page: PresencePage | Error) => void)[] = [];
  const host = {
    iteratorBuffer: 1,
    leave: () => undefined,
    presence: (_: string, o: PresenceOptions) => {
      asked.push(o);
      return new Promise<PresencePage>((resolve, reject) => waiting.push((page) => (page instanceof Error ? reject(page) : resolve(page))));
    },
  } as unknown as RoomHost;
  const room = new Room('a', { presence: true }, host);
  const here = new Members(room, max === undefined ? {} : { max });
  room.placed({ room: 'a' });
  return {
    asked,
    room,
    here,
    change: (c: Omit<PresenceChange, 'room'>) => room.noticed('presence', { room: 'a', ...c }),
    tick: (ms: number) => t.mock.timers.tick(ms),
    /** page answers the oldest question. */
    async page(users: number, names: string, next?: string): Promise<void> {
      waiting.shift()!({ room: 'a', users, anonymous: 1, connections: users + 1, members: list(names), ...(next !== undefined && { next }) });
      for (let n = 0; n < 10; n++) await Promise.resolve();
    },
    async fail(): Promise<void> {
      waiting.shift()!(new NabatError('unavailable', 'no control'));
      for (let n = 0; n < 10; n++) await Promise.resolve();
    },
    names: () => [...here].map((m) => m.user).join(' '),
  };
}

const list = (names: string): Member[] => names.split(' ').filter(Boolean).map((user) => ({ user }));

test('the pages are read when the room is joined, and changes kept up with', async (t) => {
  const r = rig(t);
  r.tick(0);
  await r.page(3, 'a b', 'b');
  await r.page(3, 'c');
  assert.deepEqual([r.names(), r.here.users, r.here.anonymous, r.here.complete], ['a b c', 3, 1, true]);
  r.change({ join: list('d'), leave: list('a'), users: 3, anonymous: 0 });
  assert.deepEqual([r.names(), r.here.complete, r.here.has('a'), r.here.get('d')], ['b c d', true, false, { user: 'd' }]);
  r.tick(60_000);
  assert.deepEqual(r.asked.map((o) => o.after), [undefined, 'b']);
});

test('a count that differs makes it read the list anew, with growing pauses', async (t) => {
  const r = rig(t);
  r.tick(0);
  await r.page(1, 'a');
  r.change({ join: list('b'), users: 3, anonymous: 0 }); // another join was not told
  assert.equal(r.here.complete, false);
  r.tick(999);
  assert.equal(r.asked.length, 1);
  r.tick(1);
  assert.equal(r.asked.length, 2);
  await r.page(3, 'a b'); // control does not agree with itself yet
  r.tick(1999);
  assert.equal(r.asked.length, 2);
  r.tick(1);
  await r.page(3, 'a b c');
  assert.deepEqual([r.names(), r.here.complete], ['a b c', true]);
});

test('what changes while pages are read counts', async (t) => {
  const r = rig(t);
  r.tick(0);
  r.change({ join: list('c'), leave: list('a'), users: 2, anonymous: 0 });
  await r.page(2, 'a b');
  assert.deepEqual([r.names(), r.here.users, r.here.complete], ['b c', 2, true]);
});

test('lost changes, a new connection and a failure are reasons to read it anew', async (t) => {
  const r = rig(t);
  const errors: unknown[] = [];
  r.here.on('error', (e) => errors.push((e as NabatError).code));
  r.tick(0);
  await r.page(1, 'a');
  r.change({ lost: true });
  assert.deepEqual([r.names(), r.here.users], ['a', 1]);
  r.tick(2000);
  assert.equal(r.asked.length, 2);
  await r.fail();
  assert.deepEqual(errors, ['unavailable']);
  r.tick(30_000);
  await r.page(2, 'a b');
  assert.equal(r.names(), 'a b');
  r.room.lost();
  r.room.placed({ room: 'a' });
  r.tick(0);
  await r.page(1, 'b');
  assert.equal(r.names(), 'b');
  r.here.close();
  r.change({ lost: true });
  r.tick(60_000);
  assert.equal(r.asked.length, 4);
});

test('above its bound it keeps the counts alone, and asks for no list', async (t) => {
  const r = rig(t, 2);
  r.tick(0);
  await r.page(5000, 'a b', 'b');
  assert.deepEqual([r.names(), r.here.users, r.here.complete], ['', 5000, false]);
  r.change({ users: 5001, anonymous: 7 });
  r.tick(60_000);
  assert.deepEqual([r.asked.length, r.here.users, r.here.anonymous], [1, 5001, 7]);
  r.change({ users: 1, anonymous: 0 });
  r.tick(2000);
  await r.page(1, 'a');
  assert.deepEqual([r.names(), r.here.complete], ['a', true]);
});
