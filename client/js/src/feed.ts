import { NabatError, type Message } from './protocol.js';

interface Reader {
  resolve(result: IteratorResult<Message>): void;
  reject(error: NabatError): void;
}

/** Feed is one loop over a room's messages, with a bound on how far it may fall behind. */
export class Feed implements AsyncIterableIterator<Message> {
  readonly #bound: number;
  readonly #ended: () => void;
  readonly #messages: Message[] = [];
  readonly #readers: Reader[] = [];
  #over = false;
  #error: NabatError | undefined; // told once, behind the messages

  constructor(bound: number, ended: () => void) {
    this.#bound = bound;
    this.#ended = ended;
  }

  push(message: Message): void {
    if (this.#over) return;
    const reader = this.#readers.shift();
    if (reader) {
      reader.resolve({ value: message, done: false });
    } else if (this.#messages.length < this.#bound) {
      this.#messages.push(message);
    } else {
      this.end(new NabatError('slow_iterator', `the loop over ${message.room} is ${this.#bound} messages behind`));
    }
  }

  end(error?: NabatError): void {
    if (this.#over) return;
    this.#over = true;
    this.#error = error;
    this.#ended();
    for (const reader of this.#readers.splice(0)) {
      if (this.#error) reader.reject(this.#error);
      else reader.resolve({ value: undefined, done: true });
      this.#error = undefined;
    }
  }

  next(): Promise<IteratorResult<Message>> {
    const message = this.#messages.shift();
    if (message) return Promise.resolve({ value: message, done: false });
    if (!this.#over) return new Promise((resolve, reject) => this.#readers.push({ resolve, reject }));
    const error = this.#error;
    this.#error = undefined;
    return error ? Promise.reject(error) : Promise.resolve({ value: undefined, done: true });
  }

  return(): Promise<IteratorResult<Message>> {
    this.#messages.length = 0;
    this.end();
    return Promise.resolve({ value: undefined, done: true });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
