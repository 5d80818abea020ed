import type { Hub, Tab } from './hub.js';
import { NabatError, type Message, type Position } from './protocol.js';
import type { Room, RoomOptions, RoomRequest } from './room.js';

/** A tab in a room. */
interface Seat {
  /** The newest message that it got, or need not get. */
  seen: number;
  presence: boolean;
}

/**
 * Place is a room of the shared client, and the tabs that are in it. A tab that
 * wants some of the past while others are in the room already makes the client
 * join anew from there; the others do not get what they have got.
 */
export class Place {
  readonly #hub: Hub;
  readonly #seats = new Map<Tab, Seat>();
  #room: Room | undefined;
  #off: (() => void)[] = [];
  #presence = false;
  #last: Message | undefined;
  #settled = false; // joined once
  #rejoining = false; // which is of no interest to who is there
  #turn: Promise<unknown> = Promise.resolve(); // joins wait for each other
  /** The token or the server wants the client there. */
  readonly granted: boolean;

  constructor(hub: Hub, readonly name: string, room?: Room) {
    this.#hub = hub;
    this.granted = room !== undefined;
    if (!room) return;
    this.#settled = true;
    this.#attach(room);
  }

  get room(): Room {
    if (!this.#room) throw new NabatError('closed', `${this.name} was left`);
    return this.#room;
  }

  enter(tab: Tab, seen: number, presence = false): void {
    this.#seats.set(tab, { seen, presence });
  }

  leave(tab: Tab): void {
    const had = this.#seats.delete(tab);
    if (this.#seats.size === 0 && (had || !this.granted)) this.#end();
  }

  /** join answers as an edge does. */
  join(tab: Tab, request: RoomRequest): Promise<Position> {
    const joined = this.#turn.then(() => (this.#room ? this.#joinLate(tab, request) : this.#joinFirst(tab, request)));
    this.#turn = joined.catch(() => undefined);
    return joined;
  }

  async #joinFirst(tab: Tab, request: RoomRequest): Promise<Position> {
    if (this.#hub.places.get(this.name) !== this) this.#hub.places.set(this.name, this);
    this.enter(tab, 0, request.presence);
    await this.#again(optionsOf(request));
    this.#settled = true;
    return this.room.at ?? this.room.position;
  }

  async #joinLate(tab: Tab, request: RoomRequest): Promise<Position> {
    await this.room.ready();
    const at = this.room.position;
    const behind = request.epoch !== undefined && request.epoch === at.epoch && (request.offset ?? 0) < (at.offset ?? 0);
    const past = at.epoch !== undefined && (behind || request.since !== undefined);
    if (past || (request.presence && !this.#presence)) await this.#rejoin(request, at, past);
    const now = past ? (this.room.at ?? this.room.position) : this.room.position;
    this.enter(tab, past ? 0 : (now.offset ?? 0), request.presence);
    if (request.latest) void this.#latest(tab);
    if (request.epoch === undefined || past) return now;
    if (request.epoch === at.epoch) return { ...now, recovered: true };
    return { ...now, recovered: false, reason: at.epoch === undefined ? 'no_history' : 'epoch_changed' };
  }

  /** #rejoin joins from a tab's beginning, or where the room stands, for all. */
  async #rejoin(request: RoomRequest, at: Position, past: boolean): Promise<void> {
    const presence = this.#presence || (request.presence ?? false);
    const here: RoomOptions = at.epoch === undefined ? {} : { position: { epoch: at.epoch, offset: at.offset ?? 0 } };
    const had = this.#presence;
    this.#rejoining = true;
    try {
      await this.#again({ ...(past ? optionsOf(request) : here), presence });
    } catch (error) {
      await this.#again({ ...here, presence: had });
      throw error;
    } finally {
      this.#rejoining = false;
      if (at.epoch === undefined) this.#notice('gap', { room: this.name, reason: 'no_history' });
    }
  }

  async #again(options: RoomOptions): Promise<void> {
    const client = this.#hub.client;
    if (!client) throw new NabatError('closed', 'the shared connection has ended');
    for (const off of this.#off.splice(0)) off();
    this.#room?.leave();
    const room = client.room(this.name, options);
    this.#presence = options.presence ?? false;
    this.#attach(room);
    try {
      await room.ready();
    } catch (error) {
      this.#room = undefined;
      throw error;
    }
  }

  #attach(room: Room): void {
    this.#room = room;
    this.#off = [
      room.on('message', (m) => this.#message(m)),
      room.on('presence', (presence) => {
        for (const [tab, seat] of this.#seats) if (seat.presence) tab.post({ frame: { presence } });
      }),
      // What is told on joining is in the answer to the tab.
      room.on('gap', (gap) => this.#settled && this.#notice('gap', gap)),
      room.on('recovered', (at) => this.#settled && !this.#rejoining && this.#notice('recovered', at)),
      room.on('reset', (at) => {
        if (!this.#settled) return;
        for (const seat of this.#seats.values()) seat.seen = at.offset ?? 0;
        this.#notice('reset', at);
      }),
      room.on('lagging', (at) => this.#notice('lagging', at)),
      room.on('error', (error) => {
        // Who joins is told, and when the client has stopped all tabs are.
        if (!this.#settled || this.#hub.client?.state.state === 'stopped') return;
        for (const tab of this.#seats.keys()) tab.post({ frame: { unsubscribed: { rooms: [this.name], reason: error.code } } });
        this.#seats.clear();
        this.#end();
      }),
    ];
  }

  #message(m: Message): void {
    this.#last = m;
    for (const [tab, seat] of this.#seats) {
      if (m.offset !== undefined) {
        if (m.offset <= seat.seen) continue;
        seat.seen = m.offset;
      }
      tab.post({ frame: m });
    }
  }

  #notice(kind: 'gap' | 'reset' | 'lagging' | 'recovered', body: Position): void {
    for (const tab of this.#seats.keys()) tab.post({ frame: { [kind]: body } });
  }

  /** #latest shows the newest message, as far as it is known or may be read. */
  async #latest(tab: Tab): Promise<void> {
    const message = this.#last ?? (await this.room.history({ limit: 1 }).catch(() => undefined))?.messages[0];
    const seat = this.#seats.get(tab);
    if (!message || !seat || (message.offset ?? 0) < seat.seen) return;
    tab.post({ frame: message });
  }

  #end(): void {
    for (const off of this.#off.splice(0)) off();
    this.#room?.leave();
    this.#room = undefined;
    this.#settled = false;
    if (this.#hub.places.get(this.name) === this) this.#hub.places.delete(this.name);
  }
}

function optionsOf({ since, latest, presence, epoch, offset }: RoomRequest): RoomOptions {
  return {
    ...(since !== undefined && { since }),
    ...(latest && { latest }),
    ...(presence && { presence }),
    ...(epoch !== undefined && { position: { epoch, offset: offset ?? 0 } }),
  };
}
