/** Transports chooses between WebSocket and event streams. */
export class Transports {
  readonly #socket: typeof WebSocket | undefined;
  readonly #after: number;
  #socketOpened = false; // once
  #streaming = false; // the try at hand, or the last one
  #isOpen = false; // that one opened
  #failures = 0; // of sockets

  constructor(socket: typeof WebSocket | undefined, after: number) {
    this.#socket = socket;
    this.#after = after;
  }

  /** socket makes WebSockets; to be asked for only after next has said so. */
  get socket(): typeof WebSocket {
    if (!this.#socket) throw new TypeError('there is no WebSocket here');
    return this.#socket;
  }

  /**
   * next reports whether the next try is an event stream. Once WebSockets have
   * failed so often that something seems to hold them up, both take turns until
   * one opens: perhaps it was only the edge that was away.
   */
  next(): boolean {
    const both = this.#after > 0 && !this.#socketOpened && this.#failures >= this.#after;
    this.#streaming = !this.#socket || (both && (!this.#streaming || this.#isOpen));
    this.#isOpen = false;
    return this.#streaming;
  }

  opened(): void {
    this.#isOpen = true;
    if (!this.#streaming) this.#socketOpened = true;
  }

  ended(): void {
    if (!this.#streaming && !this.#isOpen) this.#failures++;
  }
}
