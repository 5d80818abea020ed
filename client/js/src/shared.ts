// One connection for all tabs of a page: entry point nabat-client/shared.
import { Client, type Options } from './client.js';
import type { Command } from './codec.js';
import type { Opening, ToTab } from './hub.js';
import type { Link, LinkEvents, Patience, Via } from './link.js';

export * from './index.js';

/** Options of connect, and where the worker is. */
export interface SharedOptions extends Options {
  /** The script of the worker, of the page's own origin. Default nabat-client-worker.js beside this file. */
  worker?: string | URL;
  /** Tabs share a connection where they name the same edge and the same share, such as a user. */
  share?: string;
}

/**
 * connect is that of nabat-client, but tabs of one origin share a connection,
 * which a SharedWorker holds. Where there are no such workers (Chrome on Android,
 * some private windows) every tab has its own, as without this.
 */
export function connect(url: string, options: SharedOptions = {}): Client {
  return new Client(url, options, new Shared(options));
}

/** Shared is the way over the worker, for as long as that does not fail. */
class Shared implements Via {
  readonly #options: SharedOptions;
  #broken = typeof SharedWorker === 'undefined';

  constructor(options: SharedOptions) {
    this.#options = options;
  }

  dial(url: string, token: string, patience: Patience, events: LinkEvents): Link | undefined {
    if (this.#broken) return undefined;
    const { share = '', protocol, queue, timeout, fallbackAfter, openTimeout, pingInterval, pongTimeout, getToken } = this.#options;
    try {
      const worker = new SharedWorker(this.#options.worker ?? new URL('./nabat-client-worker.js', import.meta.url), { name: `nabat ${url} ${share}` });
      const opening: Opening = {
        url,
        token,
        renews: getToken !== undefined,
        protocol: protocol?.subprotocol ?? '',
        options: { queue, timeout, fallbackAfter, openTimeout, pingInterval, pongTimeout },
      };
      return new PortLink(worker, opening, patience, events, () => (this.#broken = true));
    } catch {
      this.#broken = true; // such as a script of another origin
      return undefined;
    }
  }
}

/** PortLink is a link to the worker, which answers as an edge would. */
class PortLink implements Link {
  readonly receiveOnly = false;
  readonly #port: MessagePort;
  readonly #events: LinkEvents;
  #timer: ReturnType<typeof setTimeout>;
  #release: () => void = () => undefined;
  #over = false;

  constructor(worker: SharedWorker, opening: Opening, patience: Patience, events: LinkEvents, broken: () => void) {
    this.#port = worker.port;
    this.#events = events;
    const give = (reason: string): void => {
      broken();
      this.#end(reason);
    };
    worker.onerror = () => give('the shared worker cannot be run');
    this.#timer = setTimeout(() => give('the shared worker does not answer'), patience.open);
    this.#port.onmessage = (e: MessageEvent<ToTab>) => this.#received(e.data);
    globalThis.addEventListener('pagehide', this.#hidden);
    void this.#hold(opening);
  }

  send(command: Command): void {
    if (!this.#over) this.#port.postMessage({ command });
  }

  close(): void {
    if (this.#over) return;
    this.#over = true;
    clearTimeout(this.#timer);
    this.#port.postMessage({ bye: true });
    this.#port.close();
    this.#release();
    globalThis.removeEventListener('pagehide', this.#hidden);
  }

  /** #hold opens under a lock that the tab holds: the worker gets it when the tab is gone. */
  async #hold(opening: Opening): Promise<void> {
    if (!globalThis.navigator?.locks) {
      this.#port.postMessage({ opening });
      return;
    }
    const lock = `nabat tab ${crypto.getRandomValues(new Uint32Array(4)).join('-')}`;
    await navigator.locks.request(lock, () => {
      if (this.#over) return undefined;
      this.#port.postMessage({ opening, lock });
      return new Promise<void>((resolve) => (this.#release = resolve));
    });
  }

  #received({ hello, opened, frame, state, connected, ended, ping }: ToTab): void {
    if (this.#over) return;
    if (hello) clearTimeout(this.#timer);
    if (ping) this.#port.postMessage({ pong: true });
    if (state) this.#events.state?.(state, connected);
    if (opened) this.#events.opened();
    if (frame) this.#events.received(frame);
    if (ended) {
      this.close();
      this.#events.ended(ended);
    }
  }

  /** #hidden: the page goes, or is kept for the way back and then begins anew. */
  readonly #hidden = (): void => {
    globalThis.addEventListener('pageshow', () => this.#events.ended({ status: 4200, code: '', retryMs: 0, reason: 'the page was away' }), { once: true });
    this.close();
  };

  #end(reason: string): void {
    if (this.#over) return;
    this.close();
    this.#events.ended({ status: 4200, code: '', retryMs: 0, reason });
  }
}
