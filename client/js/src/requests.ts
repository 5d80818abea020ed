import type { Command } from './codec.js';
import { NabatError, type Frame } from './protocol.js';

/** Request is a command that is kept until it is answered, over reconnects. */
interface Request {
  number: number; // in the order in which they were made
  command: Command;
  signal: AbortSignal | undefined;
  abort: () => void;
  timer: ReturnType<typeof setTimeout>;
  resolve(answer: Frame): void;
  reject(reason: unknown): void;
}

/**
 * More at a time would meet the edge's own bounds, which others need, too. Calls
 * take as long as backends take, so they have a window of their own.
 */
const window = { call: 12, other: 16 };

/** What an edge says when it did nothing, and may do it soon. */
const soon = new Set(['overloaded', 'rate_limited', 'unavailable']);

/**
 * Requests holds what was asked for and not answered yet. Those that wait go out
 * in order when there is a connection; those whose connection broke go out again,
 * which is harmless: history and presence change nothing, and a publication
 * carries its message_id. A call may do harm when it is made twice: it is refused.
 */
export class Requests {
  readonly #waiting: Request[] = [];
  readonly #sent = new Map<number, Request>();
  readonly #bound: number;
  #made = 0;
  #paused: ReturnType<typeof setTimeout> | undefined;
  #send: ((command: Command) => number) | undefined;
  #post: ((command: Command) => Promise<Frame>) | undefined; // instead of send
  #posts = 0; // ids of those are below 0: no connection has such

  constructor(bound: number) {
    this.#bound = bound;
  }

  ask(command: Command, timeoutMs: number, signal?: AbortSignal): Promise<Frame> {
    return new Promise((resolve, reject: (reason: unknown) => void) => {
      if (signal?.aborted) {
        reject(signal.reason);
        return;
      }
      if (this.#post && command.verb !== 'publish') {
        reject(receiveOnly());
        return;
      }
      if (this.#waiting.length >= this.#bound) {
        reject(new NabatError('queue_full', `${this.#bound} commands wait for a connection already`));
        return;
      }
      const request: Request = {
        number: this.#made++, command, signal, resolve, reject,
        timer: setTimeout(() => this.#expire(request), timeoutMs),
        abort: () => this.#forget(request, signal?.reason),
      };
      signal?.addEventListener('abort', request.abort);
      this.#waiting.push(request);
      this.#flush();
    });
  }

  /** open lets requests go out; send returns the id of what it sent. */
  open(send: (command: Command) => number): void {
    this.#send = send;
    this.#post = undefined;
    this.#flush();
  }

  /**
   * post lets publications go out where there is no connection that sends: one at a
   * time, for each is a request of its own, and such overtake each other. What else
   * waits is refused.
   */
  post(send: (command: Command) => Promise<Frame>): void {
    this.#post = send;
    for (const request of [...this.#waiting]) if (request.command.verb !== 'publish') this.#forget(request, receiveOnly());
    this.#flush();
  }

  /** lost takes back what was not answered. What was posted goes on: it needs no connection. */
  lost(): void {
    this.#send = this.#post = undefined;
    clearTimeout(this.#paused);
    this.#paused = undefined;
    for (const [id, request] of [...this.#sent]) {
      if (id < 0) continue;
      this.#sent.delete(id);
      if (!isCall(request)) this.#putBack(request);
      else this.#settle(request).reject(new NabatError('disconnected', 'the connection ended before the answer: the call may or may not have been carried out'));
    }
  }

  /** answer reports whether the frame answers one of these requests. */
  answer(id: number, frame: Frame): boolean {
    const request = this.#sent.get(id);
    if (!request) return false;
    this.#sent.delete(id);
    const error = frame.error;
    if (error && soon.has(error.code)) {
      // The others wait, too: their order stays.
      this.#putBack(request);
      clearTimeout(this.#paused);
      this.#paused = setTimeout(() => {
        this.#paused = undefined;
        this.#flush();
      }, Math.max(100, error.retry_ms) * (1 + Math.random()));
      return true;
    }
    this.#settle(request);
    if (error) request.reject(NabatError.of(error));
    else request.resolve(frame);
    this.#flush();
    return true;
  }

  /** end refuses everything. */
  end(error: NabatError): void {
    this.lost();
    const posted = [...this.#sent.values()];
    this.#sent.clear();
    for (const request of [...posted, ...this.#waiting.splice(0)]) this.#settle(request).reject(error);
  }

  #putBack(request: Request): void {
    const later = this.#waiting.findIndex((r) => r.number > request.number);
    this.#waiting.splice(later < 0 ? this.#waiting.length : later, 0, request);
  }

  #flush(): void {
    if (this.#paused !== undefined || [...this.#sent.keys()].some((id) => id < 0)) return;
    if (this.#post) {
      const request = this.#waiting.shift();
      if (!request) return;
      const id = --this.#posts;
      this.#sent.set(id, request);
      void this.#post(request.command).then((frame) => this.answer(id, frame));
      return;
    }
    if (!this.#send) return;
    let calls = [...this.#sent.values()].filter(isCall).length;
    let others = this.#sent.size - calls;
    for (let at = 0; at < this.#waiting.length && (calls < window.call || others < window.other); ) {
      const request = this.#waiting[at]!;
      if (isCall(request) ? calls >= window.call : others >= window.other) {
        at++;
        continue;
      }
      this.#waiting.splice(at, 1);
      if (isCall(request)) calls++;
      else others++;
      this.#sent.set(this.#send(request.command), request);
    }
  }

  #expire(request: Request): void {
    const { verb } = request.command;
    this.#forget(request, new NabatError('timeout', `no answer to ${verb} in time: it may or may not have been done`));
  }

  /** #forget is for what its caller does not wait for any more. */
  #forget(request: Request, reason: unknown): void {
    const at = this.#waiting.indexOf(request);
    if (at >= 0) this.#waiting.splice(at, 1);
    for (const [id, sent] of this.#sent) if (sent === request) this.#sent.delete(id);
    this.#settle(request).reject(reason);
    this.#flush();
  }

  #settle(request: Request): Request {
    clearTimeout(request.timer);
    request.signal?.removeEventListener('abort', request.abort);
    return request;
  }
}

function isCall(request: Request): boolean {
  return request.command.verb === 'rpc';
}

function receiveOnly(): NabatError {
  return new NabatError('receive_only', 'WebSockets do not pass here, and beside an event stream there is only publish');
}
