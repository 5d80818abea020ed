type GetToken = (why: 'connect' | 'expiring' | 'expired') => string | Promise<string>;

/** Token is what the client shows, and where the next one comes from. */
export class Token {
  readonly #get: GetToken | undefined;
  #value: string;
  #needed: 'connect' | 'expired' | undefined;
  #refused: string | undefined; // ended, says the edge
  #expires = Infinity; // Unix milliseconds

  constructor(value: string, get: GetToken | undefined) {
    this.#value = value;
    this.#get = get;
    this.#needed = value === '' ? 'connect' : undefined;
  }

  get renewable(): boolean {
    return this.#get !== undefined;
  }

  /** useless: it is the one that has ended. */
  get useless(): boolean {
    return this.#value !== '' && this.#value === this.#refused;
  }

  /** current is the token for the next connection. */
  async current(): Promise<string> {
    const why = this.#needed ?? (Date.now() >= this.#expires ? 'expired' : undefined);
    return why ? this.fresh(why) : this.#value;
  }

  /** fresh asks for another one, where there is somebody to ask. */
  async fresh(why: 'connect' | 'expiring' | 'expired'): Promise<string> {
    if (this.#get) this.replace((await this.#get(why)) || '');
    return this.#value;
  }

  replace(value: string): void {
    this.#value = value;
    this.#needed = undefined;
    this.#expires = Infinity;
  }

  accepted(expires: number | undefined): void {
    this.#expires = expires === undefined ? Infinity : expires * 1000;
  }

  ended(): void {
    this.#refused = this.#value;
    this.#needed = 'expired';
  }
}
