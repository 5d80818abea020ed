import type { Command } from './codec.js';
import type { Link } from './link.js';
import { NabatError, again, statusOf, type Connected, type End, type ErrorBody, type Frame, type Message, type Position } from './protocol.js';
import type { Requests } from './requests.js';
import type { Room } from './room.js';

/** How a connection begins. */
export interface Hello {
  token: string;
  /** The session before, if there was one. */
  previous: string;
  /** How long ago that was heard of, in milliseconds. */
  away(): number;
}

/** What a session needs of its client. */
export interface SessionHost {
  readonly rooms: Map<string, Room>;
  /** Rooms that were left, which the token may name all the same. */
  readonly left: ReadonlySet<string>;
  readonly requests: Requests;
  connected(answer: Connected): void;
  /** granted makes a room that the token names. */
  granted(name: string): Room;
  expiring(seconds: number): void;
  failed(error: NabatError): void;
  /** end gives the connection up. */
  end(end: End): void;
  /** restart makes a new connection: this one cannot change its rooms. */
  restart(): void;
}

type Answer = (frame: Frame) => void;

/** Messages of rooms that connected has not named yet. More are not kept. */
const maxEarly = 256;

/** Session is the protocol on one connection. */
export class Session {
  readonly #link: Link;
  readonly #host: SessionHost;
  readonly #hello: Hello;
  readonly #answers = new Map<number, Answer>();
  readonly #asked = new Set<string>(); // rooms that the edge was asked to join and not to leave
  readonly #auths = new Set<(error: NabatError) => void>(); // that wait
  readonly #early: Message[] = [];
  #joins: Room[][] = []; // subscribes that wait for the one before
  #joining = false;
  #batch: Room[] | undefined;
  #ids = 0;
  #live = false;
  #over = false;
  #unasked: Connected | undefined;
  /** Why connect was refused, if it was. */
  refusal: ErrorBody | undefined;

  constructor(link: Link, hello: Hello, host: SessionHost) {
    this.#link = link;
    this.#hello = hello;
    this.#host = host;
  }

  get live(): boolean {
    return this.#live;
  }

  get receiveOnly(): boolean {
    return this.#link.receiveOnly;
  }

  /** start says who the client is and where it wants to go on, in one frame. */
  start(): void {
    const rooms = [...this.#host.rooms.values()].filter((room) => room.wanted);
    for (const room of rooms) this.#asked.add(room.name);
    if (!this.#link.receiveOnly) this.#connect(rooms, false);
  }

  /** over is called when the connection has ended. */
  over(): void {
    this.#over = true;
    this.#live = false;
    for (const reject of this.#auths) reject(new NabatError('disconnected', 'the connection ended before the answer'));
  }

  join(room: Room): void {
    if (!this.#live) return; // connect will name it, or what follows connect
    if (this.#link.receiveOnly) {
      this.#host.restart();
      return;
    }
    if (this.#batch) {
      this.#batch.push(room);
      return;
    }
    const batch = (this.#batch = [room]);
    queueMicrotask(() => {
      this.#batch = undefined;
      this.#subscribe(batch);
    });
  }

  leave(room: Room): void {
    if (!this.#live || !this.#asked.delete(room.name)) return;
    if (this.#link.receiveOnly) this.#host.restart();
    else this.#command('unsubscribe', { rooms: [room.name] }, () => undefined);
  }

  auth(token: string): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#auths.add(reject);
      this.#command('auth', { token }, (frame) => {
        this.#auths.delete(reject);
        if (frame.error) reject(NabatError.of(frame.error));
        else resolve();
      });
    });
  }

  received(frame: Frame): void {
    if (this.#over) return;
    if (frame.room !== undefined) {
      const room = this.#host.rooms.get(frame.room);
      if (room) room.take(frame as Message);
      else if (!this.#live && this.#early.length < maxEarly) this.#early.push(frame as Message);
      return;
    }
    if (frame.id !== undefined) {
      const answer = this.#answers.get(frame.id);
      this.#answers.delete(frame.id);
      if (answer) answer(frame);
      else this.#host.requests.answer(frame.id, frame);
      return;
    }
    this.#noticed(frame);
  }

  #noticed(frame: Frame): void {
    for (const kind of ['gap', 'reset', 'lagging', 'recovered', 'presence'] as const) {
      const body = frame[kind];
      if (body) this.#host.rooms.get(body.room)?.noticed(kind, body);
    }
    if (frame.connected) {
      // By the URL of an event stream, or by a cookie whose token names rooms.
      if (this.#link.receiveOnly) this.#begin(frame.connected);
      else this.#unasked = frame.connected;
    }
    if (frame.subscribed) for (const at of frame.subscribed.rooms) this.#joinedUnasked(at);
    if (frame.expiring) this.#host.expiring(frame.expiring.in);
    if (frame.unsubscribed) {
      const error = new NabatError(frame.unsubscribed.reason ?? 'not_allowed', 'the edge ended the subscription');
      for (const name of frame.unsubscribed.rooms) this.#refuse(this.#host.rooms.get(name), error);
    }
    if (frame.error) this.#host.failed(NabatError.of(frame.error));
  }

  /** #joinedUnasked: the server joined a room, for this connection only. */
  #joinedUnasked(at: Position): void {
    let room = this.#host.rooms.get(at.room);
    if (!room) {
      room = this.#host.granted(at.room);
      room.wanted = false;
    }
    this.#asked.add(at.room);
    room.placed(at);
  }

  #command(verb: string, fields: object, answer: Answer): void {
    const id = ++this.#ids;
    this.#answers.set(id, answer);
    this.#link.send({ id, verb, fields });
  }

  /** #connect asks for all rooms in one frame, or for none so that each is asked for alone. */
  #connect(rooms: Room[], alone: boolean): void {
    const { token, previous } = this.#hello;
    const body = {
      ...(token && { token }),
      ...(previous && { previous, away_ms: this.#hello.away() }),
      ...(rooms.length > 0 && { rooms: rooms.map((room) => room.request()) }),
    };
    this.#command('connect', body, ({ connected, error }) => {
      if (connected) {
        this.#begin(connected, alone);
      } else if (error?.code === 'already_connected' && this.#unasked) {
        this.#asked.clear();
        this.#begin(this.#unasked);
        if (token) this.auth(token).catch((e: NabatError) => this.#host.failed(e));
      } else if (error?.code === 'rate_limited') {
        this.#later(error.retry_ms, () => this.#connect(rooms, alone));
      } else if (error && !again({ code: error.code, retryMs: error.retry_ms }) && !error.code.startsWith('token_')) {
        // One room that is refused must not keep the others from coming back:
        // the edge stays, and each is asked for alone.
        if (rooms.length > 0) {
          this.#asked.clear();
          this.#connect([], true);
        } else {
          this.#host.end({ status: statusOf({ code: error.code, retryMs: 0 }), code: error.code, retryMs: 0, reason: error.reason });
        }
      }
      // Else the edge closes, and the close says the same in fewer words.
      this.refusal = error;
    });
  }

  /** #begin: the client is connected. alone asks for each room by itself. */
  #begin(connected: Connected, alone = false): void {
    this.#live = true;
    this.#host.connected(connected);
    if (this.#over) return; // a listener closed the client
    for (const at of connected.rooms) {
      const known = this.#host.rooms.get(at.room);
      if (!known && (this.#asked.has(at.room) || this.#host.left.has(at.room))) {
        this.#asked.delete(at.room);
        if (!this.#link.receiveOnly) this.#command('unsubscribe', { rooms: [at.room] }, () => undefined);
        continue;
      }
      const room = known ?? this.#host.granted(at.room);
      this.#asked.add(at.room);
      room.placed(at);
    }
    if (this.#over) return;
    for (const message of this.#early.splice(0)) this.#host.rooms.get(message.room)?.take(message);
    const missing = [...this.#host.rooms.values()].filter((room) => room.wanted && !this.#asked.has(room.name));
    if (this.#link.receiveOnly) {
      if (missing.length > 0) this.#host.restart();
      return;
    }
    if (alone) for (const room of missing) this.#subscribe([room]);
    else this.#subscribe(missing);
    this.#host.requests.open((command: Command) => {
      const id = ++this.#ids;
      this.#link.send({ ...command, id });
      return id;
    });
  }

  #subscribe(rooms: Room[]): void {
    this.#joins.push(rooms);
    if (!this.#joining) this.#nextJoin();
  }

  /** #nextJoin sends one subscribe: what the edge lets wait is for others, too. */
  #nextJoin(): void {
    this.#joining = false;
    if (this.#over) return;
    const rooms = this.#joins.shift()?.filter((room) => this.#host.rooms.get(room.name) === room && !this.#asked.has(room.name));
    if (!rooms) return;
    if (rooms.length === 0) {
      this.#nextJoin();
      return;
    }
    this.#joining = true;
    for (const room of rooms) this.#asked.add(room.name);
    const { previous } = this.#hello;
    const body = { ...(previous && { away_ms: this.#hello.away() }), rooms: rooms.map((room) => room.request()) };
    this.#command('subscribe', body, ({ subscribed, error }) => {
      if (subscribed) for (const at of subscribed.rooms) this.#placed(at);
      if (error) this.#notJoined(rooms, NabatError.of(error));
      this.#nextJoin();
    });
  }

  #placed(at: Position): void {
    this.#host.rooms.get(at.room)?.placed(at);
  }

  #notJoined(rooms: Room[], error: NabatError): void {
    for (const room of rooms) this.#asked.delete(room.name);
    if (again(error)) {
      this.#later(error.retryMs, () => this.#subscribe(rooms));
    } else if (rooms.length > 1) {
      for (const room of rooms) this.#joins.push([room]);
    } else {
      this.#refuse(rooms[0], error);
    }
  }

  #later(ms: number, act: () => void): void {
    setTimeout(() => {
      if (!this.#over) act();
    }, Math.max(100, ms) * (1 + Math.random()));
  }

  #refuse(room: Room | undefined, error: NabatError): void {
    if (!room) return;
    this.#asked.delete(room.name);
    if (this.#host.rooms.get(room.name) === room) this.#host.rooms.delete(room.name);
    room.refused(error);
  }
}
