// The client against proto/testdata/vectors: what an edge writes is understood.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { base64, json, type Command } from '../src/codec.js';
import type { Link } from '../src/link.js';
import { again, comeBack, endOf, pause, statusOf, type Connected, type End, type Frame, type Message, type Position } from '../src/protocol.js';
import { command, object, pack, proto, unpack, type Schema } from '../src/proto.js';
import { Requests } from '../src/requests.js';
import { Room, type RoomHost } from '../src/room.js';
import { Session, type SessionHost } from '../src/session.js';
import { EventParser } from '../src/stream.js';

/** inJSON is a value as JSON has it: bytes in base64. */
function inJSON(value: unknown): unknown {
  if (value instanceof Uint8Array) return base64(value);
  if (Array.isArray(value)) return value.map(inJSON);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).map(([key, v]) => [key === 'binary' ? 'base64' : key, inJSON(v)]));
}

interface Vector {
  rule: string;
  json: string;
  kind: string;
  id?: number;
  value: Record<string, unknown>;
  room: string;
  event_stream?: string;
}

function vectors<T = Vector>(name: string): T[] {
  const list = JSON.parse(readFileSync(path.resolve('../../proto/testdata/vectors', name), 'utf8')) as T[];
  assert.ok(list.length > 0);
  return list;
}

const roomHost = { iteratorBuffer: 10, leave: () => undefined } as unknown as RoomHost;

/** host records what a session tells. */
function host(...names: string[]) {
  const told: unknown[] = [];
  const h: SessionHost = {
    rooms: new Map(names.map((name) => [name, new Room(name, {}, roomHost)])),
    left: new Set(),
    requests: new Requests(100),
    connected: (c: Connected) => told.push(c),
    granted: (name) => {
      const room = new Room(name, {}, roomHost);
      h.rooms.set(name, room);
      return room;
    },
    expiring: (seconds) => told.push({ in: seconds }),
    failed: (e) => told.push({ code: e.code, reason: e.message, retry_ms: e.retryMs }),
    end: (end: End) => told.push(end),
    restart: () => told.push('restart'),
  };
  return { h, told };
}

const link = (sent: string[], receiveOnly = false): Link => ({ receiveOnly, send: (command) => sent.push(json.encode(command) as string), close: () => undefined });
const hello = { token: '', previous: '', away: () => 0 };

for (const v of vectors('messages.json')) {
  test(`messages: ${v.rule}`, () => {
    const { h } = host(v.room);
    const got: Message[] = [];
    h.rooms.get(v.room)!.on('message', (m) => got.push(m));
    new Session(link([]), hello, h).received(json.decode(v.json));
    assert.deepEqual(got.map(inJSON), [JSON.parse(v.json)]);
    if (v.event_stream) {
      const events = new EventParser().push(v.event_stream);
      assert.deepEqual(events.map((e) => e.data), [v.json]);
    }
  });
}

for (const v of vectors('notices.json')) {
  test(`notices: ${v.rule}`, () => {
    const ended = (v.kind === 'unsubscribed' ? v.value.rooms : []) as string[];
    const { h, told } = host(...ended, ...(typeof v.value.room === 'string' ? [v.value.room] : []));
    for (const room of h.rooms.values()) {
      for (const kind of ['gap', 'reset', 'lagging', 'presence'] as const) room.on(kind, (body) => told.push(body));
      room.on('error', (e) => told.push([room.name, e.code]));
    }
    const receiveOnly = v.kind === 'connected';
    const [event] = v.event_stream ? new EventParser().push(v.event_stream) : [{ event: v.kind, data: v.json }];
    assert.deepEqual(event, { event: v.kind, data: v.json });
    new Session(link([], receiveOnly), hello, h).received(json.decode(v.json));
    if (v.kind === 'subscribed') {
      // The server joins: the next connection does not ask for it.
      for (const at of v.value.rooms as Position[]) {
        const room = h.rooms.get(at.room)!;
        assert.deepEqual([room.joined, room.wanted, room.position], [true, false, at]);
      }
      return;
    }
    assert.deepEqual(told, v.kind === 'unsubscribed' ? ended.map((room) => [room, v.value.reason]) : [v.value]);
  });
}

/** ask lets a session send the command that the answer of kind belongs to. */
async function answered(v: Vector): Promise<unknown> {
  const sent: string[] = [];
  const { h, told } = host();
  const session = new Session(link(sent), hello, h);
  session.start();
  const reply = (frame: string): void => session.received({ ...json.decode(frame), id: (JSON.parse(sent.at(-1)!) as { id: number }).id });
  if (v.kind === 'connected') {
    reply(v.json);
    assert.deepEqual([...h.rooms.keys()], (v.value as unknown as Connected).rooms.map((r) => r.room));
    return told[0];
  }
  reply('{"connected":{"session":"c","node":"n","rooms":[]}}');
  if (v.kind === 'subscribed') {
    const list = (v.value.rooms as { room: string; offset?: number }[]).map(({ room }) => h.granted(room));
    for (const room of list) session.join(room);
    await Promise.resolve();
    if (list.length > 0) reply(v.json);
    for (const room of list) assert.ok(room.joined);
    return v.value; // where they stand is what the next connect says
  }
  if (v.kind === 'authed') {
    const done = session.auth('t');
    reply(v.json);
    await done;
    return v.value;
  }
  const verb = ({ published: 'publish', error: 'publish', history: 'history', presence: 'presence', result: 'rpc' } as Record<string, string>)[v.kind];
  if (verb) {
    const promise = h.requests.ask({ verb, fields: {} }, 1000);
    reply(v.json);
    if (v.kind !== 'error') return inJSON((await promise)[v.kind as 'history']);
    return promise.then(() => assert.fail(), (e: { code: string; message: string; retryMs: number; backend?: string }) => {
      const body = { code: e.code, reason: e.message, retry_ms: e.retryMs };
      return e.backend === undefined ? body : { ...body, backend: e.backend };
    });
  }
  reply(v.json); // pong and unsubscribed: that they do no harm is all
  return v.value;
}

for (const v of vectors('replies.json')) {
  test(`replies: ${v.rule}`, async () => {
    assert.deepEqual(Object.keys(JSON.parse(v.json) as object).filter((key) => key !== 'id'), [v.kind]);
    assert.deepEqual(await answered(v), v.value);
  });
}

for (const v of vectors<{ code: string; close: number; again: boolean; value?: Vector['value']; json?: string }>('errors.json')) {
  test(`errors: ${v.code}`, async () => {
    assert.equal(again({ code: v.code, retryMs: 0 }), v.again);
    const verdict = comeBack(statusOf({ code: v.code, retryMs: 0 }));
    if (v.close) assert.equal(verdict, comeBack(v.close));
    else assert.equal(verdict !== 'never', v.again);
    // Those that are tried again by themselves do not reach the caller.
    if (!v.json || ['overloaded', 'unavailable', 'rate_limited'].includes(v.code)) return;
    assert.deepEqual(await answered({ kind: 'error', json: v.json } as Vector), v.value);
  });
}

interface CloseVector {
  rule: string;
  status: number;
  reason: string;
  code: string;
  retry_ms: number;
  come_back: string;
  event_stream?: string;
}

for (const v of vectors<CloseVector>('closes.json')) {
  test(`closes: ${v.rule}`, () => {
    const end = endOf(v.status, v.reason);
    assert.deepEqual([end.code, end.retryMs], [v.code, v.retry_ms]);
    assert.equal(comeBack(v.status), v.come_back);
    for (const failures of [0, 1, 5, 50]) {
      const [least, most] = [0, 1].map((chance) => pause(end, failures, () => chance));
      assert.equal(least, v.retry_ms);
      const grown = Math.min(15_000, 500 * 2 ** failures);
      assert.equal(most, v.retry_ms + (v.come_back === 'now' && failures === 0 ? v.retry_ms : Math.max(grown, v.retry_ms)));
    }
    if (!v.event_stream) return;
    const [event] = new EventParser().push(v.event_stream);
    assert.deepEqual(event, { event: 'close', data: v.reason });
    assert.equal(comeBack(statusOf({ code: v.code, retryMs: v.retry_ms })), v.come_back);
  });
}

/** What a client sends must be accepted: the vectors hold examples of it. */
test('commands: positions, away_ms and the session before are in one frame', () => {
  const sent: string[] = [];
  const { h } = host('chat.42', 'b');
  h.rooms.get('chat.42')!.placed({ room: 'chat.42', epoch: 'k3', offset: 41 });
  new Session(link(sent), { token: 'x.y.z', previous: 'c1', away: () => 5000 }, h).start();
  assert.deepEqual(sent.map((text) => JSON.parse(text) as unknown), [
    { id: 1, connect: { token: 'x.y.z', previous: 'c1', away_ms: 5000, rooms: [{ room: 'chat.42', epoch: 'k3', offset: 41 }, { room: 'b' }] } },
  ]);
});

/** The nth vector with a rule in one file is the nth with it in the other. */
const nth = new Map<string, number>();
for (const v of vectors<{ file: string; rule: string; proto_hex: string }>('protobuf.json')) {
  const key = `${v.file} ${v.rule}`;
  const n = nth.get(key) ?? 0;
  nth.set(key, n + 1);
  test(`protobuf: ${key} ${n || ''}`, () => {
    type Said = { rule?: string; code?: string; text?: string; json?: string; verb?: string };
    const same = vectors<Said>(v.file).filter((w) => (v.file === 'errors.json' ? w.code : w.rule) === v.rule && (w.verb ?? w.json) !== undefined)[n];
    assert.ok(same, 'a vector that protobuf.json is made of');
    const bytes = Uint8Array.from(Buffer.from(v.proto_hex, 'hex'));
    const hex = (list: ArrayLike<number>): string => Buffer.from(Uint8Array.from(list)).toString('hex');
    if (v.file === 'commands.json') {
      // What JSON says, written in Protobuf, to the byte.
      const { id, ...rest } = JSON.parse(same.text!) as { id?: number };
      const [[verb, said]] = Object.entries(rest) as [[string, Record<string, unknown>]];
      const { data, text, base64: bytes64, ...fields } = said;
      const raw = (unpack(command, bytes) as Record<string, { data?: string }>)[verb]!.data;
      if (raw !== undefined) assert.deepEqual(JSON.parse(raw), data); // white space is kept
      const body = raw !== undefined ? { json: raw } : typeof text === 'string' ? { text } : typeof bytes64 === 'string' ? { binary: Buffer.from(bytes64, 'base64') } : undefined;
      const written: Command = { ...(id !== undefined && { id }), verb, fields, body };
      assert.equal(hex(proto.encode(written) as Uint8Array), v.proto_hex);
      return;
    }
    assert.deepEqual(inJSON(proto.decode(bytes.buffer)), inJSON(json.decode(same.json!)));
    // Nothing was passed over: the same bytes come out of what was read.
    const raw = JSON.parse(JSON.stringify(object), (_, value: unknown) => (value === 'json' ? 'raw' : value)) as Schema;
    assert.equal(hex(pack(raw, unpack(raw, bytes))), v.proto_hex);
  });
}

test('protobuf: what is not known is passed over, and what is not Protobuf is refused', () => {
  const pong = [0x08, 7, 0x5a, 0];
  const unknown = [0x98, 6, 5, 0xa2, 6, 2, 1, 2, 0xad, 6, 1, 2, 3, 4, 0xb1, 6, 1, 2, 3, 4, 5, 6, 7, 8];
  const decode = (list: number[]): Frame => proto.decode(Uint8Array.from(list).buffer);
  assert.deepEqual(decode([...unknown, ...pong]), { id: 7, pong: {} });
  for (const bad of [[0x08], [0x5a, 5, 0], [0x0b], [8, ...Array.from({ length: 11 }, () => 255)], [0x5a, ...Array.from({ length: 8 }, () => 255), 127]]) {
    assert.throws(() => decode(bad), RangeError);
  }
  assert.throws(() => decode([0x12, 3, 0x0a, 1, 0xff]), TypeError); // not UTF-8
});
