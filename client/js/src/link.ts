import type { Command } from './codec.js';
import type { State } from './client.js';
import type { Connected, End, Frame } from './protocol.js';

/** Link is one connection to an edge, or the try to have one. */
export interface Link {
  /** A link that cannot send has joined by its URL. */
  readonly receiveOnly: boolean;
  /** send writes one command, or nothing when the link is not open. */
  send(command: Command): void;
  /** close says goodbye. ended is not called any more. */
  close(): void;
}

/** What a link tells its owner. Nothing follows ended, which is said once. */
export interface LinkEvents {
  opened(): void;
  received(frame: Frame): void;
  ended(end: End): void;
  /** What goes on behind a link that stays, as of a connection that is shared. */
  state?(state: State, connected?: Connected): void;
}

/** Via is another way to an edge than a connection of one's own. */
export interface Via {
  /** dial returns nothing when there is no such way. */
  dial(url: string, token: string, patience: Patience, events: LinkEvents): Link | undefined;
}

/** Times of a link, in milliseconds. */
export interface Patience {
  /** For the handshake. */
  open: number;
  /** Silence after which a sign of life is asked for. */
  ping: number;
  /** Silence after that: the connection is given up. */
  pong: number;
}
