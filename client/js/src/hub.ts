// What the SharedWorker does: one client, whose rooms and answers the tabs share.
// To each tab it speaks as an edge does, so that a tab's own client is the usual one.
import { Client, type Options, type State } from './client.js';
import type { Codec, Command } from './codec.js';
import { Place } from './place.js';
import { NabatError, statusOf, type Connected, type End, type ErrorBody, type Frame, type Position } from './protocol.js';
import type { RoomRequest } from './room.js';

/** How a tab begins. */
export interface Opening {
  url: string;
  token: string;
  /** The tab can get tokens. */
  renews: boolean;
  /** A sub-protocol; empty for the usual one. */
  protocol: string;
  options: { [K in 'queue' | 'timeout' | 'fallbackAfter' | 'openTimeout' | 'pingInterval' | 'pongTimeout']: Options[K] | undefined };
}

/** What a tab sends. */
export interface FromTab {
  opening?: Opening;
  /** The name of a lock that is held for as long as the tab is there. */
  lock?: string;
  command?: Command;
  pong?: boolean;
  bye?: boolean;
}

/** What the worker sends. */
export interface ToTab {
  hello?: boolean;
  opened?: boolean;
  frame?: Frame;
  state?: State;
  connected?: Connected;
  ended?: End;
  ping?: boolean;
}

/** Tabs without locks are asked for a sign of life so often, in milliseconds. */
const asked = 20_000;

/** Hub holds the client, and the tabs that share it. */
export class Hub {
  readonly codecs: Codec[];
  readonly tabs = new Set<Tab>();
  readonly places = new Map<string, Place>();
  client: Client | undefined;
  connected: Connected | undefined;
  #ends = 0; // Unix milliseconds: when the token ends that a tab is to renew; 0 for none
  #renewer: Tab | undefined; // who was asked to

  constructor(codecs: Codec[]) {
    this.codecs = codecs;
  }

  /** accept takes a tab's port. */
  accept(port: MessagePort): void {
    new Tab(this, port);
  }

  /** enter adds a tab, and connects for the first one. */
  enter(tab: Tab, { url, token, protocol, options }: Opening): void {
    this.tabs.add(tab);
    if (this.client) {
      tab.post({ state: this.client.state });
      if (this.connected) tab.post({ opened: true });
      return;
    }
    const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as Options;
    const codec = this.codecs.find((c) => c.subprotocol === protocol);
    const client = (this.client = new Client(url, { ...given, token, ...(codec && { protocol: codec }) }));
    client.on('connected', (connected) => {
      if (!this.connected) for (const t of this.tabs) t.post({ opened: true });
      this.connected = connected;
    });
    client.on('state', (state) => this.#state(client, state));
    client.on('room', (room) => {
      const place = new Place(this, room.name, room);
      this.places.set(room.name, place);
      void room.ready().then((at) => {
        for (const t of this.tabs) if (t.live) t.granted(place, at);
      }, () => undefined);
    });
    client.on('expiring', (seconds) => {
      this.#ends = Date.now() + seconds * 1000;
      this.#renewer = undefined;
      this.renew();
    });
    client.on('error', (error) => this.#tell({ frame: { error: bodyOf(error) } }));
  }

  /** gone is called once for each tab. */
  gone(tab: Tab): void {
    if (!this.tabs.delete(tab)) return;
    for (const place of this.places.values()) place.leave(tab);
    if (this.tabs.size === 0) this.#close();
    else this.renew();
  }

  #state(client: Client, state: State): void {
    if (client !== this.client) return;
    if (state.state === 'stopped') {
      // Each tab judges for itself: one may have another token.
      const { code, message, retryMs } = state.error;
      const end: End = { status: statusOf({ code, retryMs }), code, retryMs, reason: message };
      this.#close();
      for (const tab of [...this.tabs]) tab.end(end);
      return;
    }
    // connected is told behind live.
    queueMicrotask(() => this.#tell({ state, ...(state.state === 'live' && this.connected && { connected: this.connected }) }));
  }

  #close(): void {
    const client = this.client;
    this.client = this.connected = undefined;
    this.renewed();
    this.places.clear();
    client?.close();
  }

  /** renew asks one tab for a token, if one is needed and there is a tab that can. */
  renew(): void {
    if (this.#ends === 0 || (this.#renewer && this.tabs.has(this.#renewer))) return;
    this.#renewer = [...this.tabs].find((tab) => tab.live && tab.renews);
    this.#renewer?.post({ frame: { expiring: { in: Math.max(0, Math.round((this.#ends - Date.now()) / 1000)) } } });
  }

  renewed(): void {
    this.#ends = 0;
  }

  #tell(message: ToTab): void {
    for (const tab of this.tabs) tab.post(message);
  }
}

/** Tab is one page that shares the connection. */
export class Tab {
  readonly #hub: Hub;
  readonly #port: MessagePort;
  #timer: ReturnType<typeof setInterval> | undefined;
  #unheard = 0;
  renews = false;
  /** The tab has said connect. */
  live = false;

  constructor(hub: Hub, port: MessagePort) {
    this.#hub = hub;
    this.#port = port;
    port.onmessage = (e: MessageEvent<FromTab>) => this.#received(e.data);
  }

  post(message: ToTab): void {
    this.#port.postMessage(message);
  }

  /** granted: the server, or the token, wants the tab in a room. */
  granted(place: Place, at: Position): void {
    place.enter(this, at.offset ?? 0);
    this.post({ frame: { subscribed: { rooms: [at] } } });
  }

  /** end tells the tab why, and forgets it. */
  end(end: End): void {
    this.post({ ended: end });
    this.#gone();
  }

  #received({ opening, lock, command, bye }: FromTab): void {
    this.#unheard = 0;
    if (opening) {
      this.post({ hello: true });
      this.renews = opening.renews;
      if (lock !== undefined) void navigator.locks.request(lock, () => this.#gone());
      else this.#timer = setInterval(() => this.#ask(), asked);
      this.#hub.enter(this, opening);
    }
    if (command) void this.#answer(command);
    if (bye) this.#gone();
  }

  #ask(): void {
    if (this.#unheard++ < 6) this.post({ ping: true });
    else this.end({ status: 4200, code: '', retryMs: 0, reason: 'the page was silent' });
  }

  #gone(): void {
    clearInterval(this.#timer);
    this.#hub.gone(this);
  }

  async #answer(command: Command): Promise<void> {
    const { id } = command;
    let frame: Frame;
    try {
      frame = await this.#do(command);
    } catch (error) {
      frame = { error: bodyOf(error instanceof NabatError ? error : new NabatError('bad_answer', String(error))) };
    }
    this.post({ frame: { ...frame, ...(id !== undefined && { id }) } });
    const client = this.#hub.client;
    if (command.verb !== 'connect' || !frame.connected || !client) return;
    this.live = true;
    this.#hub.renew();
    this.post({ state: client.state });
    const named = new Set(frame.connected.rooms.map((p) => p.room));
    for (const place of this.#hub.places.values()) {
      if (place.granted && place.room.joined && !named.has(place.name)) this.granted(place, place.room.position);
    }
  }

  async #do({ verb, fields, body }: Command): Promise<Frame> {
    const client = this.#hub.client;
    if (!client) throw new NabatError('unavailable', 'the shared connection has ended', 100);
    switch (verb) {
      case 'connect':
        return this.#connect(client, (fields as { rooms?: RoomRequest[] }).rooms ?? []);
      case 'subscribe':
        return { subscribed: { rooms: await this.#join((fields as { rooms: RoomRequest[] }).rooms) } };
      case 'unsubscribe': {
        const { rooms } = fields as { rooms: string[] };
        for (const name of rooms) this.#hub.places.get(name)?.leave(this);
        return { unsubscribed: { rooms } };
      }
      case 'auth': {
        await client.auth((fields as { token: string }).token);
        this.#hub.renewed();
        return { authed: { user: this.#hub.connected?.user ?? '' } };
      }
      default: {
        const { id: _, ...frame } = await client.ask({ verb, fields, body });
        return frame;
      }
    }
  }

  async #connect(client: Client, requests: RoomRequest[]): Promise<Frame> {
    const connected = await client.ready();
    return { connected: { ...connected, rooms: await this.#join(requests) } };
  }

  /** #join joins all rooms or none. */
  async #join(requests: RoomRequest[]): Promise<Position[]> {
    const places = requests.map((r) => {
      const place = this.#hub.places.get(r.room) ?? new Place(this.#hub, r.room);
      this.#hub.places.set(r.room, place);
      return place;
    });
    const results = await Promise.allSettled(places.map((place, i) => place.join(this, requests[i]!)));
    const failed = results.find((r) => r.status === 'rejected');
    if (failed || !this.#hub.tabs.has(this)) {
      for (const place of places) place.leave(this);
      throw failed?.reason ?? new NabatError('closed', 'the tab is gone');
    }
    return results.map((r) => (r as PromiseFulfilledResult<Position>).value);
  }
}

function bodyOf(error: NabatError): ErrorBody {
  return { code: error.code, reason: error.message, retry_ms: error.retryMs, ...(error.backend !== undefined && { backend: error.backend }) };
}
