// The client against proto/testdata/vectors: what an edge writes is understood.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import type { Link } from '../src/link.js';
import { again, comeBack, endOf, pause, statusOf, type Connected, type End, type Frame, type Message } from '../src/protocol.js';
import { Requests } from '../src/requests.js';
import { Room, type RoomHost } from '../src/room.js';
import { Session, type SessionHost } from '../src/session.js';
import { EventParser } from '../src/stream.js';

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

const link = (sent: string[], receiveOnly = false): Link => ({ receiveOnly, send: (text) => sent.push(text), close: () => undefined });
const hello = { token: '', previous: '', away: () => 0 };

for (const v of vectors('messages.json')) {
  test(`messages: ${v.rule}`, () => {
    const { h } = host(v.room);
    const got: Message[] = [];
    h.rooms.get(v.room)!.on('message', (m) => got.push(m));
    new Session(link([]), hello, h).received(JSON.parse(v.json) as Frame);
    assert.deepEqual(got, [JSON.parse(v.json)]);
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
      for (const kind of ['gap', 'reset', 'lagging'] as const) room.on(kind, (body) => told.push(body));
      room.on('error', (e) => told.push([room.name, e.code]));
    }
    const receiveOnly = v.kind === 'connected';
    const [event] = v.event_stream ? new EventParser().push(v.event_stream) : [{ event: v.kind, data: v.json }];
    assert.deepEqual(event, { event: v.kind, data: v.json });
    new Session(link([], receiveOnly), hello, h).received(JSON.parse(v.json) as Frame);
    assert.deepEqual(told, v.kind === 'unsubscribed' ? ended.map((room) => [room, v.value.reason]) : [v.value]);
  });
}

/** ask lets a session send the command that the answer of kind belongs to. */
async function answered(v: Vector): Promise<unknown> {
  const sent: string[] = [];
  const { h, told } = host();
  const session = new Session(link(sent), hello, h);
  session.start();
  const reply = (frame: string): void => session.received({ ...(JSON.parse(frame) as Frame), id: (JSON.parse(sent.at(-1)!) as { id: number }).id });
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
  if (v.kind === 'published' || v.kind === 'history' || v.kind === 'error') {
    const promise = h.requests.ask(v.kind === 'history' ? 'history' : 'publish', '{}', 1000);
    reply(v.json);
    if (v.kind !== 'error') return (await promise)[v.kind];
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
