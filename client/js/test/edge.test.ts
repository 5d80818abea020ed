// The client against real edges.
import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { connect, NabatError, type Client, type Message, type Options, type Room } from '../src/index.js';
import { Nabat, Network, until, within } from './nabat.js';

const nabat = new Nabat();
const ends: (() => void)[] = [];
let rooms = 0;

before(async () => {
  await nabat.start();
  // The edge knows its policies before it knows that their history is there.
  const client = connect(nabat.edge);
  while ((await within('history', client.publish('test', 0))).offset === undefined);
  client.close();
});
after(() => nabat.stop());
afterEach(() => {
  for (const end of ends.splice(0)) end();
});

function open(url: string, options: Options = {}): Client {
  const client = connect(url, options);
  ends.push(() => client.close());
  return client;
}

async function network(): Promise<[Network, string]> {
  const net = new Network(nabat.edge);
  ends.push(() => net.close());
  return [net, await net.listen()];
}

/** Each test has rooms of its own. */
const fresh = (): string => `test.${process.pid}.${++rooms}`;

/** log keeps what a room tells, in order. */
function log(room: Room): string[] {
  const lines: string[] = [];
  room.on('message', (m) => lines.push(String(m.data)));
  for (const name of ['joined', 'recovered', 'gap', 'reset', 'lagging', 'error'] as const) room.on(name, () => lines.push(name));
  return lines;
}

const rejects = (promise: Promise<unknown>, code: string): Promise<void> =>
  assert.rejects(within(code, promise), (e) => e instanceof NabatError && e.code === code);

test('messages of backends and clients arrive, by listener and by loop', async () => {
  const name = fresh();
  const client = open(nabat.edge, { rooms: [name] });
  const room = client.room(name);
  const heard: Message[] = [];
  room.on('message', (m) => heard.push(m));
  await within('join', room.ready());
  const loop = room[Symbol.asyncIterator]();
  nabat.publish(name, '{"n":1}', '--event', 'said', '--user', 'bob');
  await room.publish('plain', { as: 'text' });
  await room.publish(new Uint8Array([255, 254]));
  await until('three messages', () => heard.length === 3);
  const epochless = heard.map(({ offset, ...m }) => (assert.ok(offset), m));
  assert.deepEqual(epochless, [
    { room: name, data: { n: 1 }, event: 'said', user: 'bob' },
    { room: name, text: 'plain' },
    { room: name, binary: new Uint8Array([255, 254]) },
  ]);
  for (const m of heard) assert.deepEqual((await loop.next()).value, m);
  room.leave();
  assert.equal((await within('the loop ends', loop.next())).done, true);
});

test('publish is answered with the offset, in the order of the calls', async () => {
  const room = open(nabat.edge).room(fresh());
  const published = await within('answers', Promise.all(Array.from({ length: 100 }, (_, n) => room.publish(n))));
  const offsets = published.map((p) => p.offset!);
  assert.deepEqual(offsets, [...offsets].sort((a, b) => a - b));
  assert.equal(new Set(offsets).size, 100);
  assert.equal(published[0]!.epoch, room.position.epoch);
});

test('what the edge refuses to publish is refused by name', async () => {
  const client = open(nabat.edge);
  await rejects(client.publish('a..b', 1), 'bad_room');
  await assert.rejects(client.publish('a', undefined), TypeError);
});

test('publications wait for a connection, and for no more than the queue holds', async () => {
  const name = fresh();
  const client = open(nabat.edge, { queue: 2, rooms: [name] });
  const lines = log(client.room(name));
  const two = [client.publish(name, 1), client.publish(name, 2)];
  await rejects(client.publish(name, 3), 'queue_full');
  await within('answers', Promise.all(two));
  await until('both', () => lines.length === 3);
  assert.deepEqual(lines, ['joined', '1', '2']);
});

for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
  test(`an edge that ends by ${signal} costs nothing: all rooms are resumed, each message comes once`, async () => {
    const first = await nabat.runEdge();
    const names = [fresh(), fresh()];
    const publisher = open(nabat.edge);
    const client = open(first.address.replace(/^/, 'ws://'), { rooms: names });
    const logs = names.map((name) => log(client.room(name)));
    await within('joins', Promise.all(client.rooms.map((r) => r.ready())));
    let n = 0;
    const publish = async (count: number): Promise<void> => {
      for (let i = 0; i < count; i++, n++) for (const name of names) await publisher.publish(name, n);
    };
    await publish(5);
    await until('five each', () => logs.every((l) => l.length === 6));
    await first.end(signal);
    await until('the client knows', () => client.state.state !== 'live');
    await publish(20);
    const second = await nabat.runEdge(first.address);
    await publish(5);
    await until('all', () => logs.every((l) => l.includes('29')));
    const want = ['joined', ...Array.from({ length: 30 }, (_, i) => String(i))];
    for (const lines of logs) {
      assert.equal(lines[6], 'recovered');
      assert.deepEqual(
        lines.filter((l) => l !== 'recovered'),
        want,
      );
    }
    client.close();
    await second.end('SIGKILL');
  });
}

test('a publication whose answer was lost is stored once', async () => {
  const [net, url] = await network();
  const name = fresh();
  const client = open(url, { rooms: [name] });
  const room = client.room(name);
  const lines = log(room);
  await within('join', room.ready());
  net.mute();
  const heard = open(nabat.edge).room(name);
  const seen = log(heard);
  await within('join', heard.ready());
  const answer = room.publish('once');
  await until('the edge published it', () => seen.includes('once'));
  net.cut();
  const { offset } = await within('the answer', answer);
  const page = await room.history();
  assert.deepEqual(page.messages.map((m) => [m.data, m.offset]), [['once', offset]]);
  await until('the message', () => lines.includes('once'));
  assert.deepEqual(lines, ['joined', 'recovered', 'once']);
});

test('a connection that died silently is noticed', async () => {
  const [net, url] = await network();
  const name = fresh();
  const client = open(url, { rooms: [name], pingInterval: 100, pongTimeout: 2000 });
  const lines = log(client.room(name));
  await within('join', client.room(name).ready());
  net.freeze();
  await open(nabat.edge).publish(name, 1);
  await until('it is back', () => lines.includes('1'));
  assert.equal(lines[1], 'recovered');
  assert.equal(lines.filter((l) => l === '1').length, 1);
});

test('a quiet connection is kept by pings', async () => {
  const [net, url] = await network();
  let pings = 0;
  net.sent = (text) => (pings += Number(text === '{"ping":{}}'));
  const client = open(url, { pingInterval: 20, pongTimeout: 5000 });
  await within('connect', client.ready());
  await until('pings', () => pings > 5);
  assert.equal(net.connections, 1);
});

test('history is paged both ways', async () => {
  const room = open(nabat.edge).room(fresh());
  const at = (await Promise.all([0, 1, 2, 3, 4].map((n) => room.publish(n)))).map((p) => p.offset!);
  const newest = await room.history({ limit: 2 });
  assert.deepEqual([newest.messages.map((m) => m.data), newest.more], [[3, 4], true]);
  const older = await room.history({ limit: 10, before: newest.messages[0]!.offset! });
  assert.deepEqual([older.messages.map((m) => m.data), older.more], [[0, 1, 2], false]);
  const onward = await room.history({ limit: 2, after: at[1]! });
  assert.deepEqual([onward.messages.map((m) => m.data), onward.more], [[2, 3], true]);
});

test('a room begins with what was asked for', async () => {
  const name = fresh();
  const client = open(nabat.edge);
  for (let n = 0; n < 3; n++) await client.publish(name, n);
  const newest = open(nabat.edge, { rooms: [{ room: name, latest: true }] }).room(name);
  const since = open(nabat.edge, { rooms: [{ room: name, since: '10m' }] }).room(name);
  const [a, b] = [log(newest), log(since)];
  await until('both', () => a.includes('2') && b.includes('2'));
  await client.publish(name, 3);
  await until('live', () => a.includes('3') && b.includes('3'));
  assert.deepEqual(a, ['joined', '2', '3']);
  assert.deepEqual(b, ['joined', '0', '1', '2', '3']);
});

test('a refused token stops the client, and says why', async () => {
  const client = open(nabat.edge, { token: 'x.y.z', rooms: [fresh()] });
  const [room] = client.rooms;
  const joined = room!.ready();
  joined.catch(() => undefined);
  await rejects(client.ready(), 'token_malformed');
  await rejects(joined, 'token_malformed');
  assert.ok(client.state.state === 'stopped' && /token/.test(client.state.error.message.replace('token_malformed', '')));
  await rejects(client.publish('a', 1), 'token_malformed');
});

test('one refused room does not keep the others away', async () => {
  const [allowed, later, closed] = [fresh(), fresh(), fresh()];
  const token = nabat.token('--user', 'alice', '--subscribe', allowed, '--subscribe', later);
  const client = open(nabat.edge, { token, rooms: [closed, allowed] });
  const refused = new Promise<NabatError>((resolve) => client.room(closed).on('error', resolve));
  await within('join', client.room(allowed).ready());
  assert.equal((await within('the refusal', refused)).code, 'not_allowed');
  assert.deepEqual(client.rooms.map((r) => r.name), [allowed]);
  // Later, too: two rooms in one subscribe.
  const [no, yes] = [client.room(closed), client.room(later)];
  await rejects(no.ready(), 'not_allowed');
  await within('join', yes.ready());
  assert.equal(client.state.state, 'live');
});

test('rooms that the token names are told, and can be left', async () => {
  const name = fresh();
  const [net, url] = await network();
  const client = open(url, { token: nabat.token('--user', 'alice', '--room', name) });
  const room = await within('the room', new Promise<Room>((resolve) => client.on('room', resolve)));
  assert.equal(room.name, name);
  const lines = log(room);
  nabat.publish(name, '1');
  await until('a message', () => lines.includes('1'));
  room.leave();
  net.cut();
  await until('a new connection', () => client.state.state !== 'live');
  await within('it is back', client.ready());
  nabat.publish(name, '2');
  await client.history(name).catch(() => undefined); // has been answered behind the message
  assert.deepEqual(client.rooms, []);
  assert.deepEqual(lines.filter((l) => l === '2'), []);
});

test('a token is renewed before its end, and replaced after it', async () => {
  const name = fresh();
  const [net, url] = await network();
  const why: string[] = [];
  let authed = 0;
  net.sent = (text) => (authed += Number(text.includes('"auth":')));
  const issue = (ttl: string): string => nabat.token('--user', 'alice', '--subscribe', '>', '--publish', '>', '--ttl', ttl);
  const client = open(url, {
    rooms: [name],
    getToken: (reason) => {
      why.push(reason);
      if (reason === 'expiring' && authed > 0) throw new Error('the issuer is away');
      return issue(reason === 'expired' ? '1h' : '3s');
    },
  });
  const lines = log(client.room(name));
  const failures: string[] = [];
  client.on('error', (e) => failures.push(e.code));
  await until('the token was replaced', () => why.includes('expired') && client.state.state === 'live');
  await until('the room is back', () => lines.includes('recovered'));
  assert.deepEqual(why, ['connect', 'expiring', 'expiring', 'expired']);
  assert.deepEqual(failures, ['get_token']);
  assert.equal(authed, 1);
  assert.deepEqual(lines, ['joined', 'recovered']);
});

test('a token that has ended stops a client that has no other', async () => {
  const token = nabat.token('--user', 'alice', '--ttl', '1s');
  const client = open(nabat.edge, { token });
  await within('connect', client.ready());
  await until('it stops', () => client.state.state === 'stopped');
  await rejects(client.ready(), 'token_expired');
});

test('where WebSockets do not pass, an event stream receives and resumes', async () => {
  const [net, url] = await network();
  net.refuse = 'GET /ws';
  const [one, two] = [fresh(), `${fresh()}.日本 %`];
  const client = open(url, { fallbackAfter: 1, rooms: [one] });
  const lines = log(client.room(one));
  await within('join', client.room(one).ready());
  assert.deepEqual(client.state, { state: 'live', receiveOnly: true });
  const backend = open(nabat.edge);
  await backend.publish(one, 1, { event: 'close' });
  await until('a message', () => lines.includes('1'));
  const more = log(client.room(two)); // a new stream, which names both
  await within('join', client.room(two).ready());
  await backend.publish(two, 2);
  await until('a message', () => more.includes('2'));
  net.cut();
  await until('it is lost', () => client.state.state !== 'live');
  for (const n of [3, 4]) await backend.publish(one, n);
  await until('what was missed', () => lines.includes('4'));
  await until('both are back', () => more.includes('recovered'));
  assert.deepEqual(lines, ['joined', '1', 'recovered', 'recovered', '3', '4']);
  assert.deepEqual(more, ['joined', '2', 'recovered']);
  await rejects(client.history(one), 'receive_only');
});

test('an event stream that is refused says why', async () => {
  const [net, url] = await network();
  net.refuse = 'GET /ws';
  const client = open(url, { fallbackAfter: 1, rooms: [fresh()], token: 'x.y.z' });
  await rejects(client.ready(), 'token_malformed');
});

test('close ends loops, refuses what waits, and lets the process end', async () => {
  const client = open('http://127.0.0.1:9', { rooms: ['a'] }); // nobody there
  const loop = client.room('a')[Symbol.asyncIterator]().next();
  const publication = client.publish('a', 1);
  const ready = client.ready();
  for (const p of [publication, ready]) p.catch(() => undefined);
  client.close();
  assert.equal((await within('the loop', loop)).done, true);
  await rejects(publication, 'closed');
  await rejects(ready, 'closed');
  await rejects(client.room('b').ready(), 'closed');
});
