// The sub-protocol nabat.v1.proto: proto/client.proto as tables, and a reader and
// a writer of the Protobuf wire format that follow them.
import type { Codec } from './codec.js';
import type { Frame } from './protocol.js';

/**
 * A field by its number: name and type. A type is text, bytes, whole, flag, json
 * (the bytes of one JSON value) or another message. + stands for a list, and ? for
 * a field that tells absent from its default; ! is one that is always there in JSON.
 */
type Type = 'text' | 'bytes' | 'whole' | 'flag' | 'json' | 'raw' | Schema;
type Field = readonly [name: string, type: Type, mark?: '+' | '?' | '!'];
export type Schema = Readonly<Record<number, Field>>;
type Values = Record<string, unknown>;

const roomRequest: Schema = {
  1: ['room', 'text'], 2: ['epoch', 'text'], 3: ['offset', 'whole'], 4: ['since', 'text'], 5: ['latest', 'flag'], 6: ['presence', 'flag'],
};
const body = (at: number): Schema => ({ [at]: ['data', 'raw', '?'], [at + 1]: ['text', 'text', '?'], [at + 2]: ['binary', 'bytes', '?'] });
const rooms: Field = ['rooms', 'text', '+'];

export const command: Schema = {
  1: ['id', 'whole', '?'],
  2: ['connect', { 1: ['token', 'text'], 2: ['rooms', roomRequest, '+'], 3: ['previous', 'text'], 4: ['away_ms', 'whole'] }],
  3: ['subscribe', { 1: ['rooms', roomRequest, '+'], 2: ['away_ms', 'whole'] }],
  4: ['unsubscribe', { 1: rooms }],
  5: ['publish', { 1: ['room', 'text'], ...body(2), 5: ['event', 'text'], 6: ['key', 'text'], 7: ['message_id', 'text'] }],
  6: ['auth', { 1: ['token', 'text'] }],
  7: ['history', { 1: ['room', 'text'], 2: ['limit', 'whole'], 3: ['before', 'whole'], 4: ['after', 'whole', '?'] }],
  8: ['presence', { 1: ['room', 'text'], 2: ['limit', 'whole', '?'], 3: ['after', 'text'] }],
  9: ['rpc', { 1: ['method', 'text'], ...body(2) }],
  10: ['ping', {}],
  11: ['pong', {}],
};

// What the edge sends is read with data parsed.
const parsed = (at: number): Schema => ({ ...body(at), [at]: ['data', 'json', '?'] });
const message: Schema = {
  1: ['room', 'text', '!'], 2: ['epoch', 'text'], 3: ['offset', 'whole'], ...parsed(4), 7: ['event', 'text'], 8: ['user', 'text'],
};
const position: Schema = {
  1: ['room', 'text', '!'], 2: ['epoch', 'text'], 3: ['offset', 'whole'], 4: ['recovered', 'flag', '?'], 5: ['reason', 'text'],
};
const member: Schema = { 1: ['user', 'text', '!'], 2: ['connections', 'whole'], 3: ['info', 'json'] };
const places: Field = ['rooms', position, '+'];

export const object: Schema = {
  1: ['id', 'whole', '?'],
  2: ['message', message],
  3: ['connected', { 1: ['session', 'text', '!'], 2: ['node', 'text', '!'], 3: ['user', 'text'], 4: ['expires', 'whole'], 5: places }],
  4: ['subscribed', { 1: places }],
  5: ['unsubscribed', { 1: rooms, 2: ['reason', 'text'] }],
  6: ['published', position],
  7: ['authed', { 1: ['user', 'text', '!'], 2: ['expires', 'whole'] }],
  8: ['history', { 1: ['room', 'text', '!'], 2: ['epoch', 'text', '!'], 3: ['messages', message, '+'], 4: ['more', 'flag', '!'] }],
  9: ['presence', {
    1: ['room', 'text', '!'], 2: ['users', 'whole', '!'], 3: ['anonymous', 'whole', '!'], 4: ['connections', 'whole', '!'], 5: ['members', member, '+'],
    6: ['next', 'text'], 7: ['join', member, '+'], 8: ['leave', member, '+'], 9: ['lost', 'flag'],
  }],
  10: ['result', parsed(1)],
  11: ['pong', {}],
  12: ['error', { 1: ['code', 'text', '!'], 2: ['reason', 'text', '!'], 3: ['retry_ms', 'whole', '!'], 4: ['backend', 'text'] }],
  13: ['gap', { 1: ['room', 'text', '!'], 2: ['reason', 'text'], 3: ['from', 'whole'], 4: ['to', 'whole'] }],
  14: ['reset', position],
  15: ['lagging', position],
  16: ['expiring', { 1: ['in', 'whole', '!'] }],
  17: ['ping', {}],
};

const utf8 = new TextEncoder();
const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

// --- writing ---

function varint(to: number[], n: number): void {
  for (; n > 127; n = Math.floor(n / 128)) to.push((n % 128) | 128);
  to.push(n);
}

/** pack appends a message. Fields that have their default are left out. */
export function pack(schema: Schema, from: Values, to: number[] = []): number[] {
  for (const [number, [name, type, mark]] of Object.entries(schema)) {
    const all = mark === '+' ? ((from[name] as unknown[] | undefined) ?? []) : from[name] === undefined ? [] : [from[name]];
    for (const value of all) {
      if (mark !== '+' && mark !== '?' && (value === '' || value === 0 || value === false)) continue;
      const plain = type === 'whole' || type === 'flag';
      varint(to, Number(number) * 8 + (plain ? 0 : 2));
      if (plain) {
        varint(to, Number(value));
        continue;
      }
      const bytes =
        typeof type === 'object' ? pack(type, value as Values)
        : type === 'bytes' ? (value as Uint8Array)
        : utf8.encode(type === 'json' ? JSON.stringify(value) : (value as string));
      varint(to, bytes.length);
      for (const b of bytes) to.push(b);
    }
  }
  return to;
}

// --- reading ---

/** Reader walks over bytes that may be anything. */
class Reader {
  #at = 0;
  constructor(readonly bytes: Uint8Array) {}

  get more(): boolean {
    return this.#at < this.bytes.length;
  }

  whole(): number {
    let n = 0;
    for (let unit = 1; ; unit *= 128) {
      const b = this.bytes[this.#at++];
      if (b === undefined || unit > 2 ** 63) throw new RangeError('not Protobuf');
      n += (b & 127) * unit;
      if (b < 128) return n >= 2 ** 63 ? n - 2 ** 64 : n;
    }
  }

  take(length: number): Uint8Array {
    const end = this.#at + length;
    if (!(length >= 0 && end <= this.bytes.length)) throw new RangeError('not Protobuf');
    const part = this.bytes.subarray(this.#at, end);
    this.#at = end;
    return part;
  }

  /** skip passes over a field that is not known. */
  skip(wire: number): void {
    if (wire === 0) this.whole();
    else if (wire === 1 || wire === 5) this.take(wire === 1 ? 8 : 4);
    else if (wire === 2) this.take(this.whole());
    else throw new RangeError('not Protobuf');
  }
}

const empty = { text: '', raw: '', bytes: new Uint8Array(), whole: 0, flag: false, json: null };

/** unpack reads a message, with the fields that JSON would have. */
export function unpack(schema: Schema, bytes: Uint8Array): Values {
  const values: Values = {};
  for (const [name, type, mark] of Object.values(schema)) {
    if (mark === '+') values[name] = [];
    else if (mark === '!') values[name] = empty[type as keyof typeof empty];
  }
  const from = new Reader(bytes);
  while (from.more) {
    const tag = from.whole();
    const field = schema[Math.floor(tag / 8)];
    const [name, type, mark] = field ?? [];
    const plain = type === 'whole' || type === 'flag';
    if (!name || !type || tag % 8 !== (plain ? 0 : 2)) {
      from.skip(tag % 8);
      continue;
    }
    const value = plain ? (type === 'whole' ? from.whole() : from.whole() !== 0) : read(type, from.take(from.whole()));
    if (mark === '+') (values[name] as unknown[]).push(value);
    else values[name] = value;
  }
  return values;
}

function read(type: Type, bytes: Uint8Array): unknown {
  if (typeof type === 'object') return unpack(type, bytes);
  if (type === 'bytes') return bytes.slice();
  const text = strict.decode(bytes);
  return type === 'json' ? JSON.parse(text) : text;
}

/** frameOf gives an object the form that it has when it comes in JSON. */
function frameOf(bytes: Uint8Array): Frame {
  const { message: m, ...rest } = unpack(object, bytes);
  const frame = { ...rest, ...(m as object) } as Frame;
  for (const p of [frame, frame.published, frame.reset, frame.lagging, ...(frame.connected?.rooms ?? []), ...(frame.subscribed?.rooms ?? [])]) {
    if (p?.epoch !== undefined && p.offset === undefined) p.offset = 0;
  }
  if (frame.reset && frame.reset.epoch === undefined) Object.assign(frame.reset, { epoch: '', offset: 0 });
  if (frame.gap?.reason?.startsWith('history_')) frame.gap.from ??= 0; // from the beginning
  const presence = frame.presence as Values | undefined;
  // An answer has an id, a change of presence has none.
  for (const name of frame.id === undefined ? ['connections', 'members'] : ['join', 'leave']) delete presence?.[name];
  for (const name of presence?.lost ? ['users', 'anonymous', 'join', 'leave'] : ['join', 'leave']) {
    const list = presence?.[name];
    if (presence?.lost || (Array.isArray(list) && list.length === 0)) delete presence?.[name];
  }
  return frame;
}

/** proto says the same as JSON in fewer bytes: connect(url, { protocol: proto }). */
export const proto: Codec = {
  subprotocol: 'nabat.v1.proto',

  encode({ id, verb, fields, body }) {
    const content = body && 'json' in body ? { data: body.json } : body;
    return Uint8Array.from(pack(command, { id, [verb]: { ...fields, ...content } }));
  },

  decode(frame) {
    if (typeof frame === 'string') throw new TypeError('a frame that is not binary');
    return frameOf(new Uint8Array(frame));
  },
};
