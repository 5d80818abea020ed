import { connect, headers } from '@nats-io/transport-node';

const nc = await connect({ servers: process.env.NATS_URL ?? 'nats://127.0.0.1:4222' });
const about = headers();
about.set('Nabat-Event', 'state'); // handlers of clients go by it
about.set('Nabat-User', 'shop'); // who says so
about.set('Nats-Msg-Id', 'orders.17-p1'); // of this fact: sent twice it is stored once

// A request, because JetStream answers it when the message is stored.
const reply = await nc.request('room.orders.17', JSON.stringify({ state: 'paid' }), { headers: about, timeout: 10_000 });
const stored = reply.json();
if (stored.error) throw new Error(stored.error.description);
console.log(`offset ${stored.seq}, duplicate ${stored.duplicate ?? false}`);
await nc.close();
