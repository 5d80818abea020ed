import { Emitter } from './emitter.js';
import { Feed } from './feed.js';
import { NabatError, type Gap, type HistoryPage, type Message, type Member, type Position, type PresenceChange, type PresencePage, type Published } from './protocol.js';

/** RoomEvents are what a room tells, in the order in which it happened. */
export interface RoomEvents {
  message: Message;
  /** The first time that the room is joined. */
  joined: Position;
  /** The connection is back, and every message since follows. */
  recovered: Position;
  /** Messages may be missing: fetch the present state from where it is kept. */
  gap: Gap;
  /** The room's history began anew: offsets compare only inside one epoch. */
  reset: Position;
  /** Messages come slower than they are published; none is lost. */
  lagging: Position;
  /** Who came and who left; only where the option presence asks for it. */
  presence: PresenceChange;
  /** The room cannot be joined, or was ended by the edge. It is left. */
  error: NabatError;
}

/** RoomOptions say how a room is joined. At most one of since, latest and position is set. */
export interface RoomOptions {
  /** A duration such as 10m, or a time in RFC 3339: messages since then come first. */
  since?: string;
  /** The newest message comes first. */
  latest?: boolean;
  /** A position that was kept, with its epoch: all that was published behind it comes first. */
  position?: { epoch: string; offset: number };
  /** Who comes and leaves is wanted, too. The edge refuses the room where that is not allowed. */
  presence?: boolean;
}

/** PublishOptions of one message. */
export interface PublishOptions {
  event?: string;
  key?: string;
  /** Your own id of the message. Without one the client makes one. */
  messageId?: string;
  /** How a string is sent: as a JSON string, or as plain text. */
  as?: 'data' | 'text';
}

/** HistoryOptions name a page: before or after an offset, the newest without either. */
export interface HistoryOptions {
  limit?: number;
  before?: number;
  after?: number;
}

/** PresenceOptions name a page of who is in a room. */
export interface PresenceOptions {
  /** Users at most, up to 1000. Default 100; 0 is for the counts alone. */
  limit?: number;
  /** The users behind this one: next of the page before. */
  after?: string;
}

/** What a room needs of its client. */
export interface RoomHost {
  readonly iteratorBuffer: number;
  publish(room: string, data: unknown, options?: PublishOptions): Promise<Published>;
  history(room: string, options?: HistoryOptions): Promise<HistoryPage>;
  presence(room: string, options?: PresenceOptions): Promise<PresencePage>;
  leave(room: Room): void;
}

/** A room as a connect or subscribe names it. */
export interface RoomRequest {
  room: string;
  since?: string;
  latest?: boolean;
  presence?: boolean;
  epoch?: string;
  offset?: number;
}

/**
 * Room is a place in one room, over reconnects. It is also an async iterable of
 * its messages: for await (const message of room).
 */
export class Room extends Emitter<RoomEvents> implements AsyncIterable<Message> {
  readonly name: string;
  readonly #host: RoomHost;
  readonly #options: RoomOptions;
  readonly #feeds = new Set<Feed>();
  readonly #waiting: { resolve(p: Position): void; reject(e: NabatError): void }[] = [];
  #epoch: string | undefined;
  #offset = 0; // where the subscription stands
  #delivered = 0; // the newest message that listeners got in this epoch
  #joined = false; // in the connection that lives
  #joinedOnce = false;
  #over: NabatError | undefined;
  /** @internal wanted rooms are asked for on a new connection; others come if the server wants it. */
  wanted = true;
  /** @internal at is where the edge placed the room last, in its words. */
  at: Position | undefined;

  /** @internal */
  constructor(name: string, options: RoomOptions, host: RoomHost) {
    super();
    this.name = name;
    this.#options = options;
    this.#host = host;
  }

  /** position is where the room stands; without an epoch it has no history. */
  get position(): Position {
    return this.#epoch === undefined ? { room: this.name } : { room: this.name, epoch: this.#epoch, offset: this.#offset };
  }

  get joined(): boolean {
    return this.#joined;
  }

  /** ready waits until the room is joined. It rejects when that is refused. */
  ready(): Promise<Position> {
    if (this.#over) return Promise.reject(this.#over);
    if (this.#joined) return Promise.resolve(this.position);
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  /** publish resolves when the message is stored, or with NATS in a room without history. */
  publish(data: unknown, options?: PublishOptions): Promise<Published> {
    return this.#host.publish(this.name, data, options);
  }

  history(options?: HistoryOptions): Promise<HistoryPage> {
    return this.#host.history(this.name, options);
  }

  /** presence reads one page of who is in the room. */
  presence(options?: PresenceOptions): Promise<PresencePage> {
    return this.#host.presence(this.name, options);
  }

  /** members reads who is in the room, page after page. */
  async *members(options: { limit?: number } = {}): AsyncGenerator<Member, void, undefined> {
    for (let after: string | undefined; ; ) {
      const page = await this.presence({ limit: options.limit ?? 1000, ...(after !== undefined && { after }) });
      yield* page.members;
      if (page.next === undefined) return;
      after = page.next;
    }
  }

  /** leave ends the subscription and the loops over the room. */
  leave(): void {
    if (this.#over) return;
    this.#host.leave(this);
    this.end();
  }

  /**
   * A loop ends when the room is left or the client closed. It throws when the
   * room or the client was refused, or when it falls more than iteratorBuffer
   * messages behind.
   */
  [Symbol.asyncIterator](): AsyncIterableIterator<Message> {
    const feed = new Feed(this.#host.iteratorBuffer, () => this.#feeds.delete(feed));
    if (this.#over) feed.end(this.#over.code === 'closed' ? undefined : this.#over);
    else this.#feeds.add(feed);
    return feed;
  }

  /** @internal request is how the room is asked for on a new connection. */
  request(): RoomRequest {
    const { since, latest, position, presence } = this.#options;
    const how = presence ? { presence } : {};
    if (this.#epoch !== undefined) return { ...this.position, ...how };
    if (this.#joinedOnce) return { room: this.name, ...how };
    return { room: this.name, ...how, ...position, ...(since !== undefined && { since }), ...(latest && { latest }) };
  }

  /** @internal take delivers a message, unless it was delivered before. */
  take(message: Message): void {
    if (message.offset !== undefined) {
      if (message.offset <= this.#delivered) return;
      this.#delivered = message.offset;
      this.#offset = Math.max(this.#offset, message.offset);
    }
    this.emit('message', message);
    for (const feed of this.#feeds) feed.push(message);
  }

  /** @internal placed is told where the room stands on a new connection. */
  placed(at: Position): void {
    this.at = at;
    const back = this.#joinedOnce;
    const had = this.#epoch;
    const from = this.#offset;
    this.#joined = this.#joinedOnce = true;
    if (!(at.recovered && at.epoch === had)) {
      // What was not recovered is decided by the edge. A position that nobody
      // asked to recover says nothing of what was delivered: with latest the
      // message at that very offset follows.
      const known = at.recovered === false;
      if (known || at.epoch !== had) this.#delivered = known ? (at.offset ?? 0) : 0;
      this.#epoch = at.epoch;
      this.#offset = at.offset ?? 0;
    }
    for (const { resolve } of this.#waiting.splice(0)) resolve(this.position);
    if (!back) this.emit('joined', this.position);
    if (back && had !== undefined && at.epoch !== undefined && at.epoch !== had) this.emit('reset', this.position);
    if (at.recovered) {
      this.emit('recovered', this.position);
    } else if (back || at.recovered === false) {
      const cut = at.epoch === had && this.#offset > from ? { from, to: this.#offset + 1 } : {};
      this.emit('gap', { room: this.name, reason: at.reason ?? 'no_history', ...cut });
    }
  }

  /** @internal noticed is told what the edge says about the room. */
  noticed(kind: 'gap' | 'reset' | 'lagging' | 'recovered' | 'presence', body: Gap | Position | PresenceChange): void {
    if (kind === 'gap' || kind === 'presence') {
      this.emit(kind, body as Gap & PresenceChange);
      return;
    }
    const at = body as Position;
    if (kind === 'reset') {
      this.#epoch = at.epoch || undefined; // an empty one: there is no history now
      this.#offset = this.#delivered = at.offset ?? 0;
    }
    this.emit(kind, at);
  }

  /** @internal lost is told that the connection ended. */
  lost(): void {
    this.#joined = false;
  }

  /** @internal refused ends the room for a reason that its owner has to know. */
  refused(error: NabatError): void {
    if (this.#over) return;
    this.end(error);
    this.emit('error', error);
  }

  /** @internal */
  end(error?: NabatError): void {
    if (this.#over) return;
    this.#joined = false;
    this.#over = error ?? new NabatError('closed', `${this.name} was left`);
    for (const { reject } of this.#waiting.splice(0)) reject(this.#over);
    for (const feed of [...this.#feeds]) feed.end(error);
  }
}
