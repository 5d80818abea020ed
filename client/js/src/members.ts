import { Emitter } from './emitter.js';
import type { Member, PresenceChange } from './protocol.js';
import type { Room } from './room.js';

export interface MembersEvents {
  /** The list, or a count, is another one. */
  change: Members;
  /** The list cannot be read now; it is tried again. */
  error: unknown;
}

/** Pauses between two readings, in milliseconds, when the first did not do. */
const [shortest, longest] = [1000, 30_000];

/**
 * Members is the list of who is in a room, kept up to date. The room must be
 * joined with presence: true. What changes is told at most once, so the length of
 * the list is compared with the count of each change, and the list is read anew
 * when they differ. In a room with more users than max only the counts are kept.
 */
export class Members extends Emitter<MembersEvents> implements Iterable<Member> {
  readonly #room: Room;
  readonly #max: number;
  readonly #off: (() => void)[];
  #members = new Map<string, Member>();
  #users = 0;
  #anonymous = 0;
  #complete = false;
  #reading: PresenceChange[] | undefined; // changes that came while pages were read
  #again = false;
  #pause = shortest;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #closed = false;

  constructor(room: Room, options: { max?: number } = {}) {
    super();
    this.#room = room;
    this.#max = options.max ?? 1000;
    // After every connection: what changed meanwhile was not told.
    const anew = (): void => this.#soon(0);
    this.#off = [
      room.on('joined', anew),
      room.on('recovered', anew),
      room.on('gap', ({ reason }) => reason !== 'slow' && anew()),
      room.on('presence', (change) => this.#changed(change)),
      room.on('error', () => this.close()),
    ];
    if (room.joined) anew();
  }

  /** users counts the different users in the room, anonymous the connections without one. */
  get users(): number {
    return this.#users;
  }

  get anonymous(): number {
    return this.#anonymous;
  }

  /** complete: the list is the one of the counts, as far as is known. */
  get complete(): boolean {
    return this.#complete;
  }

  has(user: string): boolean {
    return this.#members.has(user);
  }

  get(user: string): Member | undefined {
    return this.#members.get(user);
  }

  [Symbol.iterator](): Iterator<Member> {
    return this.#members.values();
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    for (const off of this.#off) off();
  }

  #changed(change: PresenceChange): void {
    if (change.lost) {
      // Everybody of the node is told at the same time.
      this.#soon(Math.random() * 2000);
      return;
    }
    this.#reading?.push(change);
    apply(this.#members, change);
    this.#users = change.users ?? 0;
    this.#anonymous = change.anonymous ?? 0;
    this.#judge();
    this.emit('change', this);
  }

  /** #judge compares the list with the count. */
  #judge(): void {
    if (this.#users > this.#max) this.#members.clear();
    this.#complete = this.#members.size === this.#users;
    if (this.#complete) this.#pause = shortest;
    else if (this.#users <= this.#max && !this.#reading) this.#soon(this.#pause);
  }

  #soon(ms: number): void {
    if (this.#reading) {
      this.#again = true;
      return;
    }
    if (this.#closed) return;
    if (ms > 0 && this.#timer !== undefined) return; // it is to be read already
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#read(), ms);
  }

  async #read(): Promise<void> {
    this.#timer = undefined;
    const changes: PresenceChange[] = (this.#reading = []);
    this.#again = false;
    try {
      const fresh = new Map<string, Member>();
      let page = await this.#room.presence({ limit: Math.min(1000, this.#max) });
      for (;;) {
        for (const member of page.members) fresh.set(member.user, member);
        if (page.next === undefined || page.users > this.#max || this.#closed) break;
        page = await this.#room.presence({ limit: 1000, after: page.next });
      }
      if (this.#closed) return;
      for (const change of changes) apply(fresh, change);
      const last = changes.at(-1);
      this.#members = fresh;
      this.#users = last?.users ?? page.users;
      this.#anonymous = last?.anonymous ?? page.anonymous;
    } catch (error) {
      this.#again = true;
      if (!this.#closed) this.emit('error', error);
    }
    this.#reading = undefined;
    this.#pause = Math.min(2 * this.#pause, longest);
    this.#judge();
    if (this.#again) this.#soon(this.#pause);
    if (!this.#closed) this.emit('change', this);
  }
}

function apply(members: Map<string, Member>, change: PresenceChange): void {
  for (const member of change.join ?? []) members.set(member.user, member);
  for (const { user } of change.leave ?? []) members.delete(user);
}
