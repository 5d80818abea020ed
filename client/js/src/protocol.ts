// The client protocol, version 1, as proto/PROTOCOL.md has it: the shapes of
// frames, and what a client does after an error or a close.

/** A message of a room. Exactly one of data, text and binary is there. */
export interface Message {
  room: string;
  /** Where the message stands in a room with history. */
  offset?: number;
  epoch?: string;
  data?: unknown;
  text?: string;
  binary?: Uint8Array;
  event?: string;
  user?: string;
}

/** Where a subscription stands. Rooms without history have only a name. */
export interface Position {
  room: string;
  epoch?: string;
  offset?: number;
  recovered?: boolean;
  reason?: string;
}

/** The answer to connect. */
export interface Connected {
  session: string;
  node: string;
  user?: string;
  /** Unix seconds. */
  expires?: number;
  rooms: Position[];
}

/** Messages of a room may be missing; in a room with history behind from and before to. */
export interface Gap {
  room: string;
  reason?: string;
  from?: number;
  to?: number;
}

/** A page of a room's history, oldest message first. */
export interface HistoryPage {
  room: string;
  epoch: string;
  messages: Message[];
  /** There are others beyond, in the direction that was asked for. */
  more: boolean;
}

/** A user in a room. */
export interface Member {
  user: string;
  /** In the room; only on a page. */
  connections?: number;
  /** What the token of the first connection tells of the user. */
  info?: unknown;
}

/** A page of who is in a room, in the order of the bytes of the users' names. */
export interface PresencePage {
  room: string;
  /** Different users, connections without one, and all connections. */
  users: number;
  anonymous: number;
  connections: number;
  members: Member[];
  /** The page behind is asked for with it as after; absent at the end. */
  next?: string;
}

/**
 * Who came into a room and who left it, and the counts after that. With lost it
 * says only that changes may have been missed.
 */
export interface PresenceChange {
  room: string;
  join?: Member[];
  leave?: Member[];
  users?: number;
  anonymous?: number;
  lost?: boolean;
}

export interface Published {
  room: string;
  epoch?: string;
  offset?: number;
}

export interface ErrorBody {
  code: string;
  reason: string;
  retry_ms: number;
  /** With rpc_failed: the code that the backend gave. */
  backend?: string;
}

/** Any object from the edge. Fields that are not known are ignored. */
export interface Frame extends Partial<Message> {
  id?: number;
  connected?: Connected;
  subscribed?: { rooms: Position[] };
  unsubscribed?: { rooms: string[]; reason?: string };
  published?: Published;
  authed?: { user: string; expires?: number };
  history?: HistoryPage;
  presence?: PresencePage | PresenceChange;
  result?: { data?: unknown; text?: string; binary?: Uint8Array };
  error?: ErrorBody;
  gap?: Gap;
  reset?: Position;
  lagging?: Position;
  /** Of a connection that is shared: it came back. */
  recovered?: Position;
  expiring?: { in: number };
  ping?: object;
  pong?: object;
}

/**
 * Why something failed. The code is one of PROTOCOL.md's table, or one of the
 * client's own: closed, disconnected, timeout, queue_full, receive_only,
 * slow_iterator, unsupported, refused, get_token, bad_answer.
 */
export class NabatError extends Error {
  override name = 'NabatError';
  constructor(
    readonly code: string,
    message: string,
    readonly retryMs = 0,
    /** With rpc_failed: the code that the backend gave. */
    readonly backend?: string,
  ) {
    super(message);
  }
  static of(body: ErrorBody): NabatError {
    return new NabatError(body.code, body.reason, body.retry_ms, body.backend);
  }
}

/** The end of one connection, or of the try to have one. */
export interface End {
  /** The WebSocket status; 1006 for what broke without a close frame. */
  status: number;
  /** Empty when the edge did not say one. */
  code: string;
  retryMs: number;
  reason: string;
}

/** What a client does after an end. */
export type ComeBack = 'never' | 'fresh_token' | 'after' | 'now';

/** The status codes by which a client broke the WebSocket protocol or a limit. */
const broke = new Set([1002, 1003, 1007, 1008, 1009]);

/** comeBack judges by the range alone, so that new codes need no new client. */
export function comeBack(status: number): ComeBack {
  if (status === 4001) return 'fresh_token';
  if (broke.has(status) || (status >= 4000 && status < 4100)) return 'never';
  return status >= 4200 && status < 4300 ? 'now' : 'after';
}

/** endOf reads the close frame's reason, which is JSON when the edge wrote it. */
export function endOf(status: number, reason: string): End {
  const end: End = { status, code: '', retryMs: 0, reason };
  try {
    const said = JSON.parse(reason) as { code?: unknown; retry_ms?: unknown; reason?: unknown };
    if (typeof said.code === 'string') end.code = said.code;
    if (typeof said.retry_ms === 'number') end.retryMs = said.retry_ms;
    end.reason = typeof said.reason === 'string' ? said.reason : end.code;
  } catch {
    // Not from the edge: the status is all there is.
  }
  return end;
}

/** The codes after which trying the same again later is of use. */
const passing = new Set([
  'rate_limited', 'too_many_connections', 'unavailable', 'overloaded', 'no_responders', 'hook_unavailable', 'namespace_full', 'token_expired', 'head_timeout', 'body_timeout', 'draining', 'slow', 'drain',
  'moved',
]);

/** again is the column of that name in PROTOCOL.md; an unknown code says it by retry_ms. */
export function again(error: { code: string; retryMs: number }): boolean {
  return passing.has(error.code) || error.retryMs > 0;
}

/**
 * statusOf is the close status that stands for a code where none was sent: on
 * event streams and in HTTP refusals.
 */
export function statusOf(error: { code: string; retryMs: number }): number {
  if (error.code === 'token_expired') return 4001;
  if (error.code === 'drain' || error.code === 'draining' || error.code === 'moved') return 4200;
  if (again(error)) return 4100;
  return 4000;
}

/**
 * pause is how long to wait before the next try, in milliseconds: at least what
 * the edge said, and chance on top, so that those of a dead node do not return
 * together. failures counts the tries since a connection that lasted.
 */
export function pause(end: End, failures: number, random: () => number = Math.random): number {
  const grown = Math.min(15_000, 500 * 2 ** Math.min(failures, 10));
  // Now means now once. A node that takes clients and sends them off again
  // would otherwise be asked without a pause.
  const spread = comeBack(end.status) === 'now' && failures === 0 ? end.retryMs : Math.max(end.retryMs, grown);
  return end.retryMs + random() * spread;
}

/** cursorOf writes positions as an event stream takes them back. */
export function cursorOf(list: Position[]): string {
  const at: Record<string, string> = {};
  for (const p of list) if (p.epoch !== undefined) at[p.room] = `${p.epoch}:${p.offset ?? 0}`;
  return Object.keys(at).length > 0 ? JSON.stringify(at) : '';
}

/** Address is an edge as both transports want it. */
export interface Address {
  ws: string;
  sse: string;
  /** A room's name goes behind its path. */
  post: string;
  /** What the query named. */
  rooms: string[];
  token: string;
}

/** addressOf takes http, https, ws and wss, with a path or without. */
export function addressOf(url: string): Address {
  const base = (globalThis as { location?: { href: string } }).location?.href;
  const u = new URL(url, base);
  const secure = u.protocol === 'https:' || u.protocol === 'wss:';
  if (!secure && u.protocol !== 'http:' && u.protocol !== 'ws:') {
    throw new TypeError(`edge address ${url}: the scheme must be ws, wss, http or https`);
  }
  const rooms = u.searchParams.getAll('room');
  const token = u.searchParams.get('token') ?? '';
  u.searchParams.delete('room');
  u.searchParams.delete('token');
  u.hash = '';
  const prefix = u.pathname.replace(/\/(ws|sse)?$/, '');
  const at = (scheme: string, path: string): string => `${scheme}${secure ? 's' : ''}://${u.host}${prefix}${path}${u.search}`;
  return { ws: at('ws', '/ws'), sse: at('http', '/sse'), post: at('http', '/v1/rooms/'), rooms, token };
}
