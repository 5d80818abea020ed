import { json, type Codec, type Command } from './codec.js';
import { Emitter } from './emitter.js';
import type { Link, LinkEvents, Patience, Via } from './link.js';
import { NabatError, addressOf, comeBack, pause, type Address, type Connected, type End, type Frame, type HistoryPage, type PresencePage, type Published } from './protocol.js';
import { bodyOf, newId } from './publication.js';
import { post } from './post.js';
import { Requests } from './requests.js';
import { Room, type HistoryOptions, type PresenceOptions, type PublishOptions, type RoomHost, type RoomOptions } from './room.js';
import { Session, type SessionHost } from './session.js';
import { Socket } from './socket.js';
import { Stream } from './stream.js';
import { Token } from './token.js';
import { Transports } from './transports.js';

/** Options of connect. Times are milliseconds. */
export interface Options {
  /** A token that is used until it ends. */
  token?: string;
  /**
   * getToken is asked for a token at the beginning, when the one in use is about
   * to end, and when it has ended. An empty text is an anonymous client.
   */
  getToken?: (why: 'connect' | 'expiring' | 'expired') => string | Promise<string>;
  /** Rooms to join at once. */
  rooms?: (string | ({ room: string } & RoomOptions))[];
  /** proto of nabat-client/proto, for fewer bytes. Default JSON. An event stream is always JSON. */
  protocol?: Codec;
  /** How many commands may wait for a connection. Default 256. */
  queue?: number;
  /**
   * How long publish, history and presence wait for their answer, and call if it
   * is not told otherwise. Default 60 s, at most
   * 100 s: the server knows a message_id again for two minutes.
   */
  timeout?: number;
  /** How many messages a loop over a room may be behind. Default 1000. */
  iteratorBuffer?: number;
  /**
   * After so many tries in which no WebSocket opened, event streams are tried,
   * too, and publish goes by HTTP requests. Default 3; 0 for never.
   */
  fallbackAfter?: number;
  /** Instead of the global one, for a Node that has none. */
  WebSocket?: typeof WebSocket;
  /** For the handshake. Default 10 s. */
  openTimeout?: number;
  /** Silence after which the edge is asked for a sign of life. Default 25 s. */
  pingInterval?: number;
  /** Silence after that: the connection is given up. Default 10 s. */
  pongTimeout?: number;
}

/** CallOptions of one call. */
export interface CallOptions {
  /** In milliseconds. The edge itself waits for a backend for 10 s, if it is not set otherwise. */
  timeout?: number;
  /** Gives up waiting. The backend may carry the call out all the same. */
  signal?: AbortSignal;
  /** How a string is sent: as a JSON string, or as plain text. */
  as?: 'data' | 'text';
}

/** State of a client. waiting has the pause and why, stopped and closed are final. */
export type State =
  | { state: 'connecting' | 'closed' }
  | { state: 'live'; receiveOnly: boolean }
  | { state: 'waiting'; ms: number; reason: string }
  | { state: 'stopped'; error: NabatError };

export interface ClientEvents {
  state: State;
  connected: Connected;
  /** A room that the token names, and nobody asked for. */
  room: Room;
  /** The token ends in so many seconds. With getToken it is renewed by itself. */
  expiring: number;
  /** What no promise and no room is told. */
  error: NabatError;
}

/** A connection that lasted so long counts as one: the pauses begin anew. */
const lasted = 5000;

/** Client holds a connection to an edge, and comes back when it ends. */
export class Client extends Emitter<ClientEvents> {
  readonly #address: Address;
  readonly #options: Options;
  readonly #patience: Patience;
  readonly #rooms = new Map<string, Room>();
  readonly #left = new Set<string>();
  readonly #requests: Requests;
  readonly #roomHost: RoomHost;
  readonly #waiting: { resolve(c: Connected): void; reject(e: NabatError): void }[] = [];
  #state: State = { state: 'connecting' };
  #turn = 0; // grows with every try: what belongs to an older one is ignored
  #link: Link | undefined;
  #session: Session | undefined;
  #connected: Connected | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #failures = 0;
  #revoked = false; // so the last connection ended
  #hurry = false; // the edge did not ask to wait
  #liveSince = 0;
  #heard = 0;
  #token: Token;
  #carried = ''; // the token that posts carry: the stream's, or a newer one
  readonly #over = new AbortController();
  #transports: Transports;
  readonly #via: Via | undefined;
  #direct = true; // the connection, or the try, is not via another way

  /** @internal */
  constructor(url: string, options: Options, via?: Via) {
    super();
    this.#via = via;
    this.#address = addressOf(url);
    this.#options = options;
    this.#patience = { open: options.openTimeout ?? 10_000, ping: options.pingInterval ?? 25_000, pong: options.pongTimeout ?? 10_000 };
    this.#requests = new Requests(options.queue ?? 256);
    this.#token = new Token(options.token ?? this.#address.token, options.getToken);
    this.#transports = new Transports(options.WebSocket ?? globalThis.WebSocket, options.fallbackAfter ?? 3);
    this.#roomHost = {
      iteratorBuffer: options.iteratorBuffer ?? 1000,
      publish: (room, data, o) => this.publish(room, data, o),
      history: (room, o) => this.history(room, o),
      presence: (room, o) => this.presence(room, o),
      leave: (room) => this.#leave(room),
    };
    for (const entry of [...this.#address.rooms, ...(options.rooms ?? [])]) {
      if (typeof entry === 'string') this.room(entry);
      else this.room(entry.room, entry);
    }
    globalThis.addEventListener?.('online', this.#online);
    // Listeners can be added before anything happens.
    queueMicrotask(() => void this.#open());
  }

  get state(): State {
    return this.#state;
  }

  /** session is the id of the connection that lives; backends can exclude it. */
  get session(): string | undefined {
    return this.#session?.live ? this.#connected?.session : undefined;
  }

  /** ready waits for a connection. It rejects when the client has stopped or is closed. */
  ready(): Promise<Connected> {
    if (this.#session?.live && this.#connected) return Promise.resolve(this.#connected);
    const error = this.#final();
    if (error) return Promise.reject(error);
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  /** room joins a room, or returns the one that is joined already. */
  room(name: string, options: RoomOptions = {}): Room {
    const known = this.#rooms.get(name);
    if (known) {
      known.wanted = true;
      return known;
    }
    const room = new Room(name, options, this.#roomHost);
    const error = this.#final();
    if (error) {
      room.end(error);
      return room;
    }
    this.#left.delete(name);
    this.#rooms.set(name, room);
    this.#session?.join(room);
    if (this.#state.state === 'waiting' && this.#state.ms === Infinity) void this.#open();
    return room;
  }

  /** rooms are those that the client is in, or wants to be in. */
  get rooms(): Room[] {
    return [...this.#rooms.values()];
  }

  /**
   * publish sends data as JSON, bytes as they are, and a string as text if
   * options.as says so. Without a connection it waits for one. A publication
   * whose answer was lost is sent again; in a room with history it is stored once.
   */
  async publish(room: string, data: unknown, options: PublishOptions = {}): Promise<Published> {
    const { event, key, messageId = newId(), as = 'data' } = options;
    const { published } = await this.ask({ verb: 'publish', fields: { room, event, key, message_id: messageId }, body: bodyOf(data, as) });
    return published ?? { room };
  }

  /** history reads a page of a room's past; the room need not be joined. */
  async history(room: string, options: HistoryOptions = {}): Promise<HistoryPage> {
    const { limit, before, after } = options;
    const { history } = await this.ask({ verb: 'history', fields: { room, limit, before, after } });
    if (!history) throw new NabatError('bad_answer', 'the edge answered history with something else');
    return history;
  }

  /** presence reads one page of who is in a room; the room need not be joined. */
  async presence(room: string, options: PresenceOptions = {}): Promise<PresencePage> {
    const { limit, after } = options;
    const { presence } = await this.ask({ verb: 'presence', fields: { room, limit, after } });
    if (!presence) throw new NabatError('bad_answer', 'the edge answered presence with something else');
    return presence as PresencePage;
  }

  /**
   * call asks a backend, and resolves to what it replied: a value, a string, or
   * bytes. Without a connection it waits for one, but it is never sent twice:
   * when the connection ends before the answer, it is rejected as disconnected.
   */
  async call<T = unknown>(method: string, data?: unknown, options: CallOptions = {}): Promise<T> {
    const { as = 'data', timeout, signal } = options;
    const body = data === undefined ? undefined : bodyOf(data, as);
    const { result } = await this.ask({ verb: 'rpc', fields: { method }, body }, timeout, signal);
    if (!result) throw new NabatError('bad_answer', 'the edge answered rpc with something else');
    return (result.binary ?? result.text ?? result.data) as T;
  }

  /** auth replaces the token, on the open connection and for those to come. */
  async auth(token: string): Promise<void> {
    const session = this.#session;
    if (session?.live && !session.receiveOnly) {
      await session.auth(token).catch((error: NabatError) => {
        if (error.code !== 'disconnected') throw error; // else the next connection shows it
      });
    }
    this.#token.replace(token);
    this.#carried = token;
  }

  /** close ends the connection, the rooms, and all that waits. */
  close(): void {
    if (this.#final()) return;
    this.#finish({ state: 'closed' }, new NabatError('closed', 'the client was closed'));
  }

  // --- one try after another ---

  async #open(): Promise<void> {
    if (this.#final()) return;
    const turn = ++this.#turn;
    clearTimeout(this.#timer);
    this.#say({ state: 'connecting' });
    let token: string;
    try {
      token = await this.#token.current();
    } catch (error) {
      if (turn === this.#turn) this.#ended({ status: 1006, code: '', retryMs: 0, reason: `getToken: ${String(error)}` });
      return;
    }
    if (turn !== this.#turn) return;
    if (this.#token.useless) {
      this.#stop(new NabatError('token_expired', 'the token has ended, and getToken has no other'));
      return;
    }
    const url = this.#address.ws;
    const events = this.#events(turn);
    const link = this.#via?.dial(url, token, this.#patience, events);
    this.#direct = !link;
    if (link) {
      this.#start(link, token);
      return;
    }
    const stream = this.#transports.next();
    this.#carried = token;
    if (stream && this.#rooms.size === 0) {
      this.#post();
      this.#say({ state: 'waiting', ms: Infinity, reason: 'an event stream needs a room' });
      return;
    }
    try {
      const rooms = [...this.#rooms.values()].map((r) => r.request());
      this.#start(
        stream
          ? new Stream({ url: this.#address.sse, token, rooms }, this.#patience, events)
          : new Socket(this.#transports.socket, url, this.#options.protocol ?? json, this.#patience, events),
        token,
      );
    } catch (error) {
      // Such as ws: on a page of https:.
      this.#stop(new NabatError('unsupported', String(error)));
    }
  }

  /** #post lets publications go out beside a link that only receives, or none. */
  #post(): void {
    this.#requests.post((command) => post(this.#address.post, this.#carried, command, this.#over.signal));
  }

  #events(turn: number): LinkEvents {
    return {
      opened: () => {
        if (this.#direct) this.#transports.opened();
        this.#session?.start();
        this.#timer = setTimeout(() => this.#giveUp('connect was not answered'), 2 * this.#patience.open);
      },
      received: (frame: Frame) => {
        if (turn !== this.#turn) return;
        if (this.#session?.live) this.#heard = Date.now();
        this.#session?.received(frame);
      },
      ended: (end) => {
        if (turn === this.#turn) this.#ended(end);
      },
      state: (state, connected) => {
        if (turn !== this.#turn) return;
        if (connected) this.#connected = connected;
        // The session behind may be away while this one stays.
        if (this.#session?.live || state.state !== 'live') this.#say(state);
        if (this.#session?.live && connected) this.emit('connected', connected);
      },
    };
  }

  #start(link: Link, token: string): void {
    const heard = this.#heard;
    const hello = { token, previous: this.#connected?.session ?? '', away: () => Math.max(1, Date.now() - heard) };
    this.#link = link;
    this.#session = new Session(link, hello, this.#sessionHost());
  }

  #sessionHost(): SessionHost {
    return {
      rooms: this.#rooms,
      left: this.#left,
      requests: this.#requests,
      connected: (answer) => this.#begun(answer),
      granted: (name) => {
        const room = new Room(name, {}, this.#roomHost);
        this.#rooms.set(name, room);
        this.emit('room', room);
        return room;
      },
      expiring: (seconds) => {
        this.emit('expiring', seconds);
        void this.#renew();
      },
      failed: (error) => this.emit('error', error),
      end: (end) => {
        this.#link?.close();
        this.#ended(end);
      },
      restart: () => this.#restart(),
    };
  }

  #begun(answer: Connected): void {
    clearTimeout(this.#timer);
    this.#connected = answer;
    this.#liveSince = this.#heard = Date.now();
    this.#token.accepted(answer.expires);
    const receiveOnly = this.#session?.receiveOnly ?? false;
    if (receiveOnly) this.#post();
    this.#say({ state: 'live', receiveOnly });
    this.emit('connected', answer);
    for (const { resolve } of this.#waiting.splice(0)) resolve(answer);
  }

  #giveUp(reason: string): void {
    this.#link?.close();
    this.#ended({ status: 1006, code: '', retryMs: 0, reason });
  }

  #ended(end: End): void {
    if (this.#session?.live && Date.now() - this.#liveSince > lasted) this.#failures = 0;
    const refusal = this.#session?.refusal;
    this.#drop();
    if (this.#direct) this.#transports.ended();
    const said = refusal?.code === end.code ? refusal.reason : end.reason;
    const reason = said || `the connection ended with status ${end.status}`;
    let verdict = comeBack(end.status);
    // Another token may do; a second one that is revoked, too, says that it will not.
    if (end.code === 'token_revoked' && !this.#revoked && this.#token.renewable) verdict = 'fresh_token';
    this.#revoked = end.code === 'token_revoked';
    if (verdict === 'never' || (verdict === 'fresh_token' && !this.#token.renewable)) {
      this.#stop(new NabatError(end.code || 'refused', reason));
      return;
    }
    if (verdict === 'fresh_token') this.#token.ended();
    const ms = pause(end, this.#failures++);
    this.#hurry = end.retryMs === 0;
    this.#say({ state: 'waiting', ms, reason });
    this.#timer = setTimeout(() => void this.#open(), ms);
  }

  /** #drop forgets the connection, so that what still comes of it is ignored. */
  #drop(): void {
    this.#turn++;
    clearTimeout(this.#timer);
    this.#session?.over();
    this.#session = this.#link = undefined;
    this.#requests.lost();
    for (const room of this.#rooms.values()) room.lost();
  }

  /** #restart makes an event stream that joins the rooms of now. */
  #restart(): void {
    const turn = this.#turn;
    queueMicrotask(() => {
      if (turn !== this.#turn) return;
      this.#link?.close();
      this.#drop();
      void this.#open();
    });
  }

  readonly #online = (): void => {
    if (this.#state.state === 'waiting' && this.#hurry) void this.#open();
  };

  async #renew(): Promise<void> {
    const session = this.#session;
    if (!this.#token.renewable || !session || session.receiveOnly) return; // a stream comes back with a fresh one
    try {
      const token = await this.#token.fresh('expiring');
      if (session === this.#session && session.live) await session.auth(token);
    } catch (error) {
      // The old token stays in force until it ends; then it is asked for again.
      this.emit('error', error instanceof NabatError ? error : new NabatError('get_token', String(error)));
    }
  }

  // --- rooms and requests ---

  #leave(room: Room): void {
    if (this.#rooms.get(room.name) !== room) return;
    this.#rooms.delete(room.name);
    this.#left.add(room.name);
    this.#session?.leave(room);
  }

  /** @internal ask sends a command that is answered, when there is a connection. */
  ask(command: Command, timeout = this.#options.timeout ?? 60_000, signal?: AbortSignal): Promise<Frame> {
    const error = this.#final();
    if (error) return Promise.reject(error);
    return this.#requests.ask(command, Math.min(timeout, 100_000), signal);
  }

  // --- states ---

  #say(state: State): void {
    this.#state = state;
    this.emit('state', state);
  }

  #final(): NabatError | undefined {
    if (this.#state.state === 'stopped') return this.#state.error;
    return this.#state.state === 'closed' ? new NabatError('closed', 'the client was closed') : undefined;
  }

  #stop(error: NabatError): void {
    this.#finish({ state: 'stopped', error }, error);
  }

  #finish(state: State, error: NabatError): void {
    this.#state = state;
    this.#link?.close();
    this.#drop();
    globalThis.removeEventListener?.('online', this.#online);
    this.#requests.end(error);
    this.#over.abort(error);
    for (const room of this.#rooms.values()) {
      if (state.state === 'stopped') room.refused(error);
      else room.end();
    }
    this.#rooms.clear();
    for (const { reject } of this.#waiting.splice(0)) reject(error);
    this.#say(state);
  }
}
