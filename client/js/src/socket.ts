import type { Codec, Command } from './codec.js';
import type { Link, LinkEvents, Patience } from './link.js';
import { endOf, type End, type Frame } from './protocol.js';

const broken = (reason: string): End => ({ status: 1006, code: '', retryMs: 0, reason });

/** Socket is a link over WebSocket. It notices a connection that died silently. */
export class Socket implements Link {
  readonly receiveOnly = false;
  readonly #socket: WebSocket;
  readonly #events: LinkEvents;
  readonly #patience: Patience;
  readonly #codec: Codec;
  #timer: ReturnType<typeof setTimeout>;
  #heard = 0;
  #asked = false;
  #over = false;

  constructor(make: typeof WebSocket, url: string, codec: Codec, patience: Patience, events: LinkEvents) {
    this.#codec = codec;
    this.#events = events;
    this.#patience = patience;
    this.#socket = new make(url, [codec.subprotocol]);
    this.#socket.binaryType = 'arraybuffer';
    this.#timer = setTimeout(() => this.#giveUp('no answer to the handshake'), patience.open);
    this.#socket.onopen = () => {
      if (this.#over) return;
      clearTimeout(this.#timer);
      this.#heard = Date.now();
      this.#watch(patience.ping);
      events.opened();
    };
    this.#socket.onmessage = (e: MessageEvent) => this.#received(e.data as string | ArrayBuffer);
    this.#socket.onclose = (e: CloseEvent) => this.#end(endOf(e.code, e.reason));
    // A close follows in the same task, but for Node 20, which says no more
    // about a handshake that failed.
    this.#socket.onerror = () => void setTimeout(() => this.#end(broken('the connection failed')), 0);
  }

  send(command: Command): void {
    if (this.#socket.readyState === 1) this.#socket.send(this.#codec.encode(command));
  }

  close(): void {
    this.#over = true;
    clearTimeout(this.#timer);
    this.#socket.close(1000);
  }

  #received(data: string | ArrayBuffer): void {
    if (this.#over) return;
    this.#heard = Date.now();
    if (this.#asked) {
      this.#asked = false;
      clearTimeout(this.#timer);
      this.#watch(this.#patience.ping);
    }
    let frame: Frame;
    try {
      frame = this.#codec.decode(data);
    } catch {
      this.#giveUp(`the server sent what is not ${this.#codec.subprotocol}: is this a Nabat edge?`);
      return;
    }
    if (frame.ping) this.send({ verb: 'pong', fields: {} });
    this.#events.received(frame);
  }

  /**
   * #watch looks at the silence from time to time. Timers of hidden pages and of
   * machines that slept fire late: only silence after a question counts.
   */
  #watch(wait: number): void {
    this.#timer = setTimeout(() => {
      if (this.#asked) {
        this.#giveUp('the connection is silent');
        return;
      }
      const left = this.#heard + this.#patience.ping - Date.now();
      if (left > 0) {
        this.#watch(Math.min(left, this.#patience.ping));
        return;
      }
      this.#asked = true;
      this.send({ verb: 'ping', fields: {} });
      this.#watch(this.#patience.pong);
    }, wait);
  }

  /** #giveUp does not wait for the close of a peer that may be gone. */
  #giveUp(reason: string): void {
    this.#end(broken(reason));
    this.#socket.close();
  }

  #end(end: End): void {
    if (this.#over) return;
    this.#over = true;
    clearTimeout(this.#timer);
    this.#events.ended(end);
  }
}
