import { Client, type Options } from './client.js';

export { Client, type ClientEvents, type Options, type State } from './client.js';
export { NabatError, type Connected, type Gap, type HistoryPage, type Message, type Position, type Published } from './protocol.js';
export { Room, type HistoryOptions, type PublishOptions, type RoomEvents, type RoomOptions } from './room.js';

/**
 * connect begins a connection to the edge at url, http(s):// or ws(s)://, with or
 * without a path, and returns at once. The client keeps the connection until close.
 */
export function connect(url: string, options: Options = {}): Client {
  return new Client(url, options);
}
