// Calls, presence, Protobuf, and networks that refuse WebSockets, against real edges.
import assert from 'node:assert/strict';
import http from 'node:http';
import net from 'node:net';
import { after, afterEach, before, test } from 'node:test';
import { connect, Members, NabatError, type Client, type Message, type Options, type PresenceChange } from '../src/index.js';
import { proto } from '../src/proto.js';
import { answer, request } from './backend.js';
import { Nabat, until, within } from './nabat.js';

const nabat = new Nabat();
const ends: (() => void)[] = [];
let backend: (() => void)[] = [];
let rooms = 0;

before(async () => {
  await nabat.start();
  const client = connect(nabat.edge);
  while ((await within('history', client.publish('test', 0))).offset === undefined);
  client.close();
  backend = await Promise.all([
    answer(nabat.nats, 'rpc.echo', (body) => body),
    answer(nabat.nats, 'rpc.fails', () => '!402'),
  ]);
});
after(async () => {
  for (const end of backend) end();
  await nabat.stop();
});
afterEach(() => {
  for (const end of ends.splice(0)) end();
});

function open(url: string, options: Options = {}): Client {
  const client = connect(url, options);
  ends.push(() => client.close());
  return client;
}

const fresh = (): string => `more.${process.pid}.${++rooms}`;

for (const [name, options] of [['JSON', {}], ['Protobuf', { protocol: proto }]] as [string, Options][]) {
  test(`${name}: calls are answered with what the backend replied`, async () => {
    const client = open(nabat.edge, options);
    assert.deepEqual(await within('a value', client.call('echo', { n: 1 })), { n: 1 });
    assert.equal(await within('a text', client.call('echo', 'plain', { as: 'text' })), 'plain');
    assert.deepEqual(await within('bytes', client.call('echo', new Uint8Array([255, 254]))), new Uint8Array([255, 254]));
    assert.equal(await within('nothing', client.call('echo')), '');
    const fails = (method: string): Promise<unknown> => within(method, client.call(method)).then(() => assert.fail(), (e: NabatError) => [e.code, e.backend]);
    assert.deepEqual(await fails('fails'), ['rpc_failed', '402']);
    assert.deepEqual(await fails('nobody'), ['no_responders', undefined]);
  });

  test(`${name}: bodies of every kind, and history`, async () => {
    const room = open(nabat.edge, options).room(fresh());
    const got: Message[] = [];
    room.on('message', (m) => got.push(m));
    await within('join', room.ready());
    await room.publish({ n: 2 ** 53 - 1, s: 'ü' }, { event: 'said' });
    await room.publish('plain', { as: 'text' });
    await room.publish(new Uint8Array([0, 255]));
    await until('three', () => got.length === 3);
    const want = [{ data: { n: 2 ** 53 - 1, s: 'ü' }, event: 'said' }, { text: 'plain' }, { binary: new Uint8Array([0, 255]) }];
    assert.deepEqual(got.map(({ room: _, offset, epoch: __, ...m }) => (assert.ok(offset), m)), want);
    const page = await within('history', room.history({ after: 0, limit: 2 }));
    assert.deepEqual([page.messages.map((m) => m.offset), page.more], [got.slice(0, 2).map((m) => m.offset), true]);
    await assert.rejects(room.history({ before: 1, after: 1 }), (e: NabatError) => e.code === 'bad_command');
  });

  test(`${name}: who is in a room, page after page, and who comes and leaves`, async () => {
    const room = fresh();
    const as = async (sub: string): Promise<string> => {
      const issued = await request(nabat.nats, 'nabat.api.token.issue', JSON.stringify({ sub, subscribe: [room], presence: [room] }));
      return (JSON.parse(issued) as { token: string }).token;
    };
    const alice = open(nabat.edge, { ...options, token: await as('alice') }).room(room, { presence: true });
    const told: PresenceChange[] = [];
    alice.on('presence', (change) => told.push(change));
    const here = new Members(alice);
    ends.push(() => here.close());
    await within('join', alice.ready());
    await until('alice is alone', () => here.complete && here.users === 1);
    const tokens = await Promise.all(['bob', 'carol', 'dave'].map(as));
    const others = tokens.map((token) => open(nabat.edge, { ...options, token, rooms: [room] }));
    await within('join', Promise.all(others.map((c) => c.room(room).ready())));
    await until('all are told', () => here.complete && [...here].length === 4);
    assert.deepEqual([...here].map((m) => m.user).sort(), ['alice', 'bob', 'carol', 'dave']);
    const seen: string[] = [];
    for await (const { user } of alice.members({ limit: 2 })) seen.push(user);
    assert.deepEqual(seen, ['alice', 'bob', 'carol', 'dave']);
    const page = await alice.presence({ limit: 2, after: 'alice' });
    assert.deepEqual([page.users, page.members.map((m) => m.user), page.next], [4, ['bob', 'carol'], 'carol']);
    assert.deepEqual((await alice.presence({ limit: 0 })).members, []);
    assert.ok(told.some((change) => change.join?.some((m) => m.user === 'bob')));
    others[0]!.close();
    await until('bob is gone', () => here.complete && !here.has('bob') && here.users === 3);
  });
}

/** What becomes of the nth publication, from 1 on: it goes on, its answer is lost, or the proxy answers itself. */
type Fate = (n: number) => 'passes' | 'is lost' | number;

/** A proxy that speaks HTTP and does not know WebSockets. */
async function proxy(refusal: string, fate: Fate = () => 'passes'): Promise<[string, () => number, () => number]> {
  const target = new URL(nabat.edge);
  let refused = 0;
  let posts = 0;
  const server = http.createServer((request, response) => {
    const { url: path, method, headers } = request;
    const then = method === 'POST' ? fate(++posts) : 'passes';
    if (typeof then === 'number') {
      request.resume();
      response.writeHead(then).end('<html>');
      return;
    }
    const onward = http.request({ host: target.hostname, port: target.port, path, method, headers }, (answer) => {
      if (then === 'is lost') {
        response.destroy();
        return;
      }
      response.writeHead(answer.statusCode!, answer.headers);
      response.flushHeaders();
      answer.pipe(response);
    });
    onward.on('error', () => response.destroy());
    response.on('close', () => onward.destroy());
    request.pipe(onward);
  });
  server.on('upgrade', (_, socket) => {
    refused++;
    socket.end(`HTTP/1.1 ${refusal}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  ends.push(() => (server.closeAllConnections(), server.close()));
  return [`http://127.0.0.1:${(server.address() as net.AddressInfo).port}`, () => refused, () => posts];
}

for (const status of ['403 Forbidden', '502 Bad Gateway', '200 OK']) {
  test(`a proxy that answers upgrades with ${status} is passed by an event stream`, async () => {
    const [url, refused] = await proxy(status);
    const name = fresh();
    const client = open(url, { fallbackAfter: 2, rooms: [name] });
    const got: unknown[] = [];
    client.room(name).on('message', (m) => got.push(m.data ?? m.binary));
    await within('join', client.room(name).ready());
    assert.deepEqual([client.state, refused()], [{ state: 'live', receiveOnly: true }, 2]);
    const publisher = open(nabat.edge);
    await publisher.publish(name, 1);
    await publisher.publish(name, new Uint8Array([255]));
    await until('messages', () => got.length === 2);
    assert.deepEqual(got, [1, new Uint8Array([255])]);
    await assert.rejects(client.call('echo'), (e: NabatError) => e.code === 'receive_only');
  });
}

/** streaming is a client in a room that only receives. */
async function streaming(url: string, options: Options = {}): Promise<[Client, string, unknown[]]> {
  const name = `${fresh()}.日本 %/+`;
  const client = open(url, { fallbackAfter: 1, rooms: [name], ...options });
  const got: unknown[] = [];
  client.room(name).on('message', (m) => got.push(m.data ?? m.text ?? m.binary));
  await within('join', client.room(name).ready());
  assert.deepEqual(client.state, { state: 'live', receiveOnly: true });
  return [client, name, got];
}

const refusedAs = (code: string) => (e: NabatError) => e.code === code;

test('beside an event stream publications go out by requests, in order', async () => {
  const [url, , posts] = await proxy('403 Forbidden');
  const [client, name, got] = await streaming(url);
  const room = client.room(name);
  const heard: (string | undefined)[] = [];
  room.on('message', (m) => heard.push(m.event));
  const published = await within('answers', Promise.all([...Array.from({ length: 20 }, (_, n) => room.publish(n)), room.publish('plain', { as: 'text', event: 'säid', key: 'k' }), room.publish(new Uint8Array([255, 0]))]));
  const offsets = published.map((p) => p.offset!);
  assert.deepEqual(offsets, [...offsets].sort((a, b) => a - b));
  assert.ok(published.every((p) => p.room === name && p.epoch !== undefined));
  await until('messages', () => got.length === 22);
  assert.deepEqual(got, [...Array.from({ length: 20 }, (_, n) => n), 'plain', new Uint8Array([255, 0])]);
  assert.equal(heard[20], 'säid');
  assert.equal(posts(), 22);
  for (const other of [room.history(), room.presence(), client.call('echo')]) await assert.rejects(other, refusedAs('receive_only'));
});

test('what was to be published before the stream was there goes out then, and the rest is refused', async () => {
  const [url] = await proxy('403 Forbidden');
  const name = fresh();
  const client = open(url, { fallbackAfter: 1, rooms: [name] });
  const first = client.publish(name, 1);
  const past = client.history(name);
  await assert.rejects(within('history', past), refusedAs('receive_only'));
  assert.equal((await within('publish', first)).room, name);
});

test('a client in no room publishes, too', async () => {
  const [url] = await proxy('403 Forbidden');
  const client = open(url, { fallbackAfter: 1 });
  assert.equal(typeof (await within('publish', client.publish(fresh(), 1))).offset, 'number');
});

test('a publication whose answer was lost goes out again, before those behind it, and is stored once', async () => {
  const [url, , posts] = await proxy('403 Forbidden', (n) => (n === 1 ? 'is lost' : n === 2 ? 502 : 'passes'));
  const [client, name, got] = await streaming(url);
  const published = await within('answers', Promise.all([1, 2, 3].map((n) => client.publish(name, n))));
  const [a, b, c] = published.map((p) => p.offset!);
  assert.ok(a! < b! && b! < c!);
  await until('messages', () => got.length === 3);
  assert.deepEqual(got, [1, 2, 3]);
  assert.equal(posts(), 5);
});

test('a publication is on its way while the stream begins anew', async () => {
  const [url, , posts] = await proxy('403 Forbidden');
  const [client, name, got] = await streaming(url);
  const published = client.publish(name, 1);
  await within('another room', client.room(fresh()).ready()); // on a new stream
  await within('the answer', published);
  await client.publish(name, 2);
  await until('messages', () => got.length === 2);
  assert.deepEqual(got, [1, 2]);
  assert.equal(posts(), 2);
});

test('a publication that is refused is rejected with the reason, and the next one goes out', async () => {
  const [url] = await proxy('403 Forbidden', (n) => (n === 3 ? 404 : 'passes'));
  const token = nabat.token('--user', 'alice', '--subscribe', '>', '--publish', 'more.>');
  const [client, name] = await streaming(url, { token });
  await assert.rejects(client.publish('elsewhere', 1), (e: NabatError) => e.code === 'not_allowed' && e.message === 'publish to elsewhere is not granted');
  await assert.rejects(client.publish('a..b', 1), refusedAs('bad_room'));
  await assert.rejects(client.publish(name, 1), refusedAs('refused')); // says a proxy
  await assert.rejects(client.publish('\ud800', 1), refusedAs('bad_room'));
  await assert.rejects(client.publish(name, 'x'.repeat(70_000)), refusedAs('too_large'));
  assert.equal((await client.publish(name, 1)).room, name);
});

test('close rejects what is being published', async () => {
  const [url] = await proxy('403 Forbidden', () => 502);
  const [client, name] = await streaming(url);
  const published = client.publish(name, 1);
  published.catch(() => undefined);
  client.close();
  await assert.rejects(published, refusedAs('closed'));
});
