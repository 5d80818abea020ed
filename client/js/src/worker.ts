// The script of the SharedWorker of nabat-client/shared.
import { json } from './codec.js';
import { Hub } from './hub.js';
import { proto } from './proto.js';

const hub = new Hub([json, proto]);

(globalThis as unknown as { onconnect: (e: MessageEvent) => void }).onconnect = (e) => hub.accept(e.ports[0]!);
