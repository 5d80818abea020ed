import { NabatError, type Frame } from './protocol.js';

/** Request is a command that is kept until it is answered, over reconnects. */
interface Request {
  number: number; // in the order in which they were made
  verb: 'publish' | 'history';
  body: string; // as JSON: the caller may change its object meanwhile
  timer: ReturnType<typeof setTimeout>;
  resolve(answer: Frame): void;
  reject(error: NabatError): void;
}

/** More at a time would meet the edge's own bound, which others need, too. */
const window = 16;

/**
 * Requests holds what was asked for and not answered yet. Those that wait go out
 * in order when there is a connection; those whose connection broke go out again,
 * which is harmless: history changes nothing, and a publication carries its
 * message_id.
 */
export class Requests {
  readonly #waiting: Request[] = [];
  readonly #sent = new Map<number, Request>();
  readonly #bound: number;
  #made = 0;
  #paused: ReturnType<typeof setTimeout> | undefined;
  #send: ((verb: string, body: string) => number) | undefined;

  constructor(bound: number) {
    this.#bound = bound;
  }

  ask(verb: Request['verb'], body: string, timeoutMs: number): Promise<Frame> {
    return new Promise((resolve, reject) => {
      if (this.#waiting.length >= this.#bound) {
        reject(new NabatError('queue_full', `${this.#bound} commands wait for a connection already`));
        return;
      }
      const request: Request = { number: this.#made++, verb, body, resolve, reject, timer: setTimeout(() => this.#expire(request), timeoutMs) };
      this.#waiting.push(request);
      this.#flush();
    });
  }

  /** open lets requests go out; send returns the id of what it sent. */
  open(send: (verb: string, body: string) => number): void {
    this.#send = send;
    this.#flush();
  }

  /** lost takes back what was not answered. */
  lost(): void {
    this.#send = undefined;
    clearTimeout(this.#paused);
    this.#paused = undefined;
    for (const request of this.#sent.values()) this.#putBack(request);
    this.#sent.clear();
  }

  /** answer reports whether the frame answers one of these requests. */
  answer(id: number, frame: Frame): boolean {
    const request = this.#sent.get(id);
    if (!request) return false;
    this.#sent.delete(id);
    const error = frame.error;
    if (error && (error.code === 'overloaded' || error.code === 'rate_limited' || error.code === 'unavailable')) {
      // The others wait, too: their order stays.
      this.#putBack(request);
      clearTimeout(this.#paused);
      this.#paused = setTimeout(() => {
        this.#paused = undefined;
        this.#flush();
      }, Math.max(100, error.retry_ms) * (1 + Math.random()));
      return true;
    }
    clearTimeout(request.timer);
    if (error) request.reject(NabatError.of(error));
    else request.resolve(frame);
    this.#flush();
    return true;
  }

  /** end refuses everything. */
  end(error: NabatError): void {
    this.lost();
    for (const request of this.#waiting.splice(0)) {
      clearTimeout(request.timer);
      request.reject(error);
    }
  }

  #putBack(request: Request): void {
    const later = this.#waiting.findIndex((r) => r.number > request.number);
    this.#waiting.splice(later < 0 ? this.#waiting.length : later, 0, request);
  }

  #flush(): void {
    while (this.#send && this.#paused === undefined && this.#sent.size < window) {
      const request = this.#waiting.shift();
      if (!request) return;
      this.#sent.set(this.#send(request.verb, request.body), request);
    }
  }

  #expire(request: Request): void {
    const at = this.#waiting.indexOf(request);
    if (at >= 0) this.#waiting.splice(at, 1);
    for (const [id, sent] of this.#sent) if (sent === request) this.#sent.delete(id);
    request.reject(new NabatError('timeout', `no answer to ${request.verb} in time: it may or may not have been done`));
    this.#flush();
  }
}
