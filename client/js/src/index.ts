import { Client, type Options } from './client.js';

export { Client, type CallOptions, type ClientEvents, type Options, type State } from './client.js';
export type { Body, Codec, Command } from './codec.js';
export { Members, type MembersEvents } from './members.js';
export { NabatError, type Connected, type Gap, type HistoryPage, type Member, type Message, type Position, type PresenceChange, type PresencePage, type Published } from './protocol.js';
export { Room, type HistoryOptions, type PresenceOptions, type PublishOptions, type RoomEvents, type RoomOptions } from './room.js';

/**
 * connect begins a connection to the edge at url, http(s):// or ws(s)://, with or
 * without a path, and returns at once. The client keeps the connection until close.
 */
export function connect(url: string, options: Options = {}): Client {
  return new Client(url, options);
}
