// The parts of the client by themselves.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { json, type Command } from '../src/codec.js';
import { Feed } from '../src/feed.js';
import { addressOf, comeBack, cursorOf, endOf, NabatError, statusOf, type Frame, type Gap, type Message, type Position } from '../src/protocol.js';
import { bodyOf, newId } from '../src/publication.js';
import { Requests } from '../src/requests.js';
import { Room, type RoomHost } from '../src/room.js';
import { EventParser } from '../src/stream.js';
import { Token } from '../src/token.js';
import { Transports } from '../src/transports.js';

const roomHost = { iteratorBuffer: 2, leave: () => undefined } as unknown as RoomHost;

for (const [given, ws, sse] of [
  ['http://h:1', 'ws://h:1/ws', 'http://h:1/sse'],
  ['wss://h/ws', 'wss://h/ws', 'https://h/sse'],
  ['https://h/live/', 'wss://h/live/ws', 'https://h/live/sse'],
  ['ws://h/sse?room=a&room=b%20c&token=t&x=1#f', 'ws://h/ws?x=1', 'http://h/sse?x=1'],
] as const) {
  test(`the address ${given}`, () => {
    const address = addressOf(given);
    assert.deepEqual([address.ws, address.sse], [ws, sse]);
    if (given.includes('room')) assert.deepEqual([address.rooms, address.token], [['a', 'b c'], 't']);
  });
}

test('an address of another kind is refused', () => {
  assert.throws(() => addressOf('ftp://h'), TypeError);
});

test('a cursor holds the positions of rooms with history', () => {
  assert.equal(cursorOf([{ room: 'a', epoch: 'k1', offset: 0 }, { room: 'b' }]), '{"a":"k1:0"}');
  assert.equal(cursorOf([{ room: 'b' }]), '');
});

/** told records what a room tells when it is placed again. */
function back(first: Position, offset: number | undefined, again: Position): [string[], Room] {
  const room = new Room('a', {}, roomHost);
  room.placed(first);
  room.take({ room: 'a', ...(offset !== undefined && { offset }) });
  room.lost();
  const told: string[] = [];
  room.on('message', (m: Message) => told.push(`message ${m.offset}`));
  for (const kind of ['joined', 'recovered', 'reset'] as const) room.on(kind, (p: Position) => told.push(`${kind} ${p.epoch} ${p.offset}`));
  room.on('gap', (g: Gap) => told.push(`gap ${g.reason} ${g.from} ${g.to}`));
  room.placed(again);
  return [told, room];
}

for (const [rule, first, offset, again, next, want] of [
  ['what was recovered goes on', { epoch: 'k', offset: 3 }, 4, { epoch: 'k', offset: 4, recovered: true }, 5, ['recovered k 4', 'message 5']],
  ['a message that comes twice is delivered once', { epoch: 'k', offset: 3 }, 5, { epoch: 'k', offset: 5, recovered: true }, 5, ['recovered k 5']],
  ['what was cut is a gap between two offsets', { epoch: 'k', offset: 3 }, 7, { epoch: 'k', offset: 15, recovered: false, reason: 'history_cut' }, 16, ['gap history_cut 7 16', 'message 16']],
  ['another epoch is a reset and a gap', { epoch: 'k', offset: 3 }, 7, { epoch: 'm', offset: 2, recovered: false, reason: 'epoch_changed' }, 3, ['reset m 2', 'gap epoch_changed undefined undefined', 'message 3']],
  ['a history that fell back begins where the edge says', { epoch: 'k', offset: 3 }, 700, { epoch: 'k', offset: 5, recovered: false, reason: 'ahead_of_history' }, 6, ['gap ahead_of_history undefined undefined', 'message 6']],
  ['a room without history is a gap', {}, undefined, {}, undefined, ['gap no_history undefined undefined', 'message undefined']],
] as [string, Omit<Position, 'room'>, number | undefined, Omit<Position, 'room'>, number | undefined, string[]][]) {
  test(`coming back: ${rule}`, () => {
    const [told, room] = back({ room: 'a', ...first }, offset, { room: 'a', ...again });
    room.take({ room: 'a', ...(next !== undefined && { offset: next }) });
    assert.deepEqual(told, want);
  });
}

test('the newest message that latest asks for stands at the offset of the answer', () => {
  const room = new Room('a', { latest: true }, roomHost);
  assert.deepEqual(room.request(), { room: 'a', latest: true });
  const got: Message[] = [];
  room.on('message', (m) => got.push(m));
  room.placed({ room: 'a', epoch: 'k', offset: 5 });
  for (const offset of [5, 5, 6]) room.take({ room: 'a', offset });
  assert.deepEqual(got.map((m) => m.offset), [5, 6]);
  assert.deepEqual(room.request(), { room: 'a', epoch: 'k', offset: 6 });
});

test('the words of an operator reach the reason', () => {
  const end = endOf(4005, '{"code":"kicked","retry_ms":0,"reason":"bye"}');
  assert.deepEqual(end, { status: 4005, code: 'kicked', retryMs: 0, reason: 'bye' });
  assert.equal(comeBack(4005), 'never');
  assert.deepEqual([comeBack(4201), comeBack(statusOf({ code: 'moved', retryMs: 9000 }))], ['now', 'now']);
});

test('a reset to no history holds no position', () => {
  const room = new Room('a', {}, roomHost);
  room.placed({ room: 'a', epoch: 'k', offset: 5 });
  room.noticed('reset', { room: 'a', epoch: '', offset: 0 });
  assert.deepEqual(room.request(), { room: 'a' });
});

test('a room may begin at a position that was kept', () => {
  const room = new Room('a', { position: { epoch: 'k', offset: 7 }, presence: true }, roomHost);
  assert.deepEqual(room.request(), { room: 'a', presence: true, epoch: 'k', offset: 7 });
  room.placed({ room: 'a' });
  assert.deepEqual(room.request(), { room: 'a', presence: true });
});

test('a loop that falls behind is told so, behind what it has', async () => {
  const feed = new Feed(2, () => undefined);
  for (let offset = 1; offset <= 3; offset++) feed.push({ room: 'a', offset });
  assert.equal((await feed.next()).value?.offset, 1);
  assert.equal((await feed.next()).value?.offset, 2);
  await assert.rejects(feed.next(), (e: NabatError) => e.code === 'slow_iterator');
  assert.equal((await feed.next()).done, true);
});

test('a listener that throws keeps nobody else from the message, and is not hidden', (t) => {
  const room = new Room('a', {}, roomHost);
  const later: (() => void)[] = [];
  t.mock.method(globalThis, 'queueMicrotask', (fn: () => void) => later.push(fn));
  room.on('message', () => {
    throw new Error('of the page');
  });
  let got = 0;
  const off = room.on('message', () => got++);
  room.take({ room: 'a' });
  off();
  room.take({ room: 'a' });
  assert.equal(got, 1);
  assert.throws(() => later[0]!(), /of the page/);
});

const publish = (n: string): Command => ({ verb: 'publish', fields: { n } });

/** wire stands for connections: it numbers what is sent. */
function wire(requests: Requests) {
  const sent: string[] = [];
  let id = 0;
  return { sent, open: () => requests.open(({ fields }) => (sent.push((fields as { n: string }).n), ++id)) };
}

test('requests are sent again in their order, and answered once', async () => {
  const requests = new Requests(10);
  const { sent, open } = wire(requests);
  const list = ['1', '2', '3'].map((n) => requests.ask(publish(n), 1000));
  open();
  requests.answer(2, { published: { room: 'b' } });
  requests.lost();
  open();
  assert.deepEqual(sent, ['1', '2', '3', '1', '3']);
  assert.equal(requests.answer(1, {}), false); // of the connection before
  requests.answer(4, { published: { room: 'a' } });
  requests.answer(5, { error: { code: 'too_large', reason: 'r', retry_ms: 0 } });
  assert.equal((await list[0]!).published?.room, 'a');
  assert.equal((await list[1]!).published?.room, 'b');
  await assert.rejects(list[2]!, (e: NabatError) => e.code === 'too_large');
});

test('an edge that has no room now is asked again, and the others wait behind', async () => {
  const requests = new Requests(10);
  const { sent, open } = wire(requests);
  open();
  const one = requests.ask(publish('1'), 5000);
  requests.answer(1, { error: { code: 'overloaded', reason: 'r', retry_ms: 1 } });
  const two = requests.ask(publish('2'), 5000);
  assert.deepEqual(sent, ['1']);
  const answer = (): void => {
    for (let id = 2; id <= sent.length; id++) requests.answer(id, { published: { room: sent[id - 1]! } });
    if (sent.length < 3) setTimeout(answer, 5);
  };
  answer();
  assert.deepEqual((await Promise.all([one, two])).map((f: Frame) => f.published?.room), ['1', '2']);
  assert.deepEqual(sent, ['1', '1', '2']);
});

test('a request that nobody answers ends by itself', async () => {
  const requests = new Requests(10);
  await assert.rejects(requests.ask({ verb: 'history', fields: {} }, 1), (e: NabatError) => e.code === 'timeout');
  const { sent, open } = wire(requests);
  open();
  assert.deepEqual(sent, []);
});

test('calls wait for each other, and for nothing else; a call is sent once', async () => {
  const requests = new Requests(100);
  const { sent, open } = wire(requests);
  const call = (n: number): Promise<Frame> => requests.ask({ verb: 'rpc', fields: { n: `call ${n}` } }, 5000);
  const calls = Array.from({ length: 14 }, (_, n) => call(n));
  const other = requests.ask(publish('1'), 5000);
  open();
  assert.deepEqual([sent.length, sent.at(-1)], [13, '1']);
  requests.answer(1, { result: { data: 1 } });
  assert.equal(sent.at(-1), 'call 12');
  requests.lost();
  for (const sentCall of calls.slice(1, 13)) await assert.rejects(sentCall, (e: NabatError) => e.code === 'disconnected');
  open();
  assert.deepEqual(sent.slice(14), ['call 13', '1']);
  requests.end(new NabatError('closed', ''));
  await assert.rejects(calls[13]!);
  await assert.rejects(other);
  assert.deepEqual((await calls[0]!).result, { data: 1 });
});

test('a signal ends the wait, before and after the request was sent', async () => {
  const requests = new Requests(10);
  const { sent, open } = wire(requests);
  const [one, two] = [new AbortController(), new AbortController()];
  const asked = [one, two].map(({ signal }) => requests.ask(publish('1'), 5000, signal));
  one.abort(new Error('never mind'));
  await assert.rejects(asked[0]!, /never mind/);
  open();
  assert.equal(sent.length, 1);
  two.abort();
  await assert.rejects(asked[1]!, (e: Error) => e.name === 'AbortError');
  assert.equal(requests.answer(1, {}), false);
  await assert.rejects(requests.ask(publish('1'), 5000, one.signal), /never mind/);
});

test('no more than sixteen requests are under way', () => {
  const requests = new Requests(100);
  const { sent, open } = wire(requests);
  for (let n = 0; n < 20; n++) requests.ask(publish(String(n)), 1000).catch(() => undefined);
  open();
  assert.equal(sent.length, 16);
  requests.answer(7, {});
  assert.equal(sent.length, 17);
  requests.end(new NabatError('closed', ''));
});

test('a token is asked for at the beginning, and when the last one has ended', async () => {
  const why: string[] = [];
  const token = new Token('', (reason) => (why.push(reason), `t${why.length}`));
  assert.equal(await token.current(), 't1');
  token.accepted(Date.now() / 1000 + 60);
  assert.equal(await token.current(), 't1');
  token.accepted(Date.now() / 1000 - 60);
  assert.equal(await token.current(), 't2');
  token.ended();
  assert.equal(token.useless, true);
  assert.equal(await token.current(), 't3');
  assert.equal(token.useless, false);
  assert.deepEqual(why, ['connect', 'expired', 'expired']);
});

test('event streams take turns with WebSockets that have never opened, until one opens', () => {
  const transports = new Transports(class {} as unknown as typeof WebSocket, 2);
  const tries = (opened: boolean[]): boolean[] =>
    opened.map((open) => {
      const stream = transports.next();
      if (open) transports.opened();
      transports.ended();
      return stream;
    });
  assert.deepEqual(tries([false, false, false, false, false]), [false, false, true, false, true]);
  assert.deepEqual(tries([false, true, false, false]), [false, true, true, false]);
});

test('a WebSocket that opened once is not given up', () => {
  const transports = new Transports(class {} as unknown as typeof WebSocket, 1);
  for (let n = 0; n < 5; n++) {
    assert.equal(transports.next(), false);
    if (n === 0) transports.opened();
    transports.ended();
  }
});

test('an event stream is cut into events wherever the network cuts it', () => {
  const text = 'retry: 2000\nid: {"a":"k:1"}\nevent: connected\ndata: {"connected":{}}\n\n:\n\ndata: {"room":"a"}\n\nevent: x data: y\ndata: 1\n\n';
  for (let at = 0; at <= text.length; at++) {
    const parser = new EventParser();
    assert.deepEqual(
      [...parser.push(text.slice(0, at)), ...parser.push(text.slice(at))],
      [{ event: 'connected', data: '{"connected":{}}' }, { event: '', data: '{"room":"a"}' }, { event: 'x data: y', data: '1' }],
    );
  }
});

test('bodies', () => {
  assert.deepEqual(bodyOf({ a: 1 }, 'data'), { json: '{"a":1}' });
  assert.deepEqual(bodyOf(null, 'data'), { json: 'null' });
  assert.deepEqual(bodyOf('x', 'text'), { text: 'x' });
  assert.deepEqual(bodyOf(new Uint8Array([255, 254]), 'data'), { binary: new Uint8Array([255, 254]) });
  assert.equal(json.encode({ verb: 'rpc', fields: {}, body: { binary: new Uint8Array([255, 254]) } }), '{"rpc":{"base64":"//4="}}');
  assert.equal(json.encode({ id: 1, verb: 'publish', fields: { room: 'a' }, body: { text: '"' } }), '{"id":1,"publish":{"room":"a","text":"\\""}}');
  assert.throws(() => bodyOf(1, 'text'), TypeError);
  assert.throws(() => bodyOf(() => 1, 'data'), TypeError);
  assert.equal(new Set(Array.from({ length: 1000 }, newId)).size, 1000);
});

for (const name of ['nabat-client', 'nabat-client-proto', 'nabat-client-shared', 'nabat-client-worker']) test(`the README states the size of ${name}`, () => {
  const stated = new RegExp(`^\\| .*\`${name}.js\` \\| ([\\d.]+) KB`, 'm').exec(readFileSync('README.md', 'utf8'))?.[1];
  const kilobytes = gzipSync(readFileSync(`dist/${name}.js`), { level: 9 }).length / 1000;
  assert.ok(stated && Math.abs(Number(stated) - kilobytes) <= 0.1, `README says ${stated} KB, it is ${kilobytes.toFixed(1)} KB`);
});
