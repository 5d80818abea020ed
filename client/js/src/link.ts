import type { End, Frame } from './protocol.js';

/** Link is one connection to an edge, or the try to have one. */
export interface Link {
  /** A link that cannot send has joined by its URL. */
  readonly receiveOnly: boolean;
  /** send writes one JSON object, or nothing when the link is not open. */
  send(text: string): void;
  /** close says goodbye. ended is not called any more. */
  close(): void;
}

/** What a link tells its owner. Nothing follows ended, which is said once. */
export interface LinkEvents {
  opened(): void;
  received(frame: Frame): void;
  ended(end: End): void;
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
