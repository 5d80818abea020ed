import { connect, headers } from '@nats-io/transport-node';

const nc = await connect({ servers: process.env.NATS_URL ?? 'nats://127.0.0.1:4222' });
nc.subscribe('rpc.orders.create', {
  queue: 'orders', // several of this program share the work
  callback: (_, call) => {
    const fail = headers();
    let order;
    try {
      order = call.json();
    } catch {
      // answered below
    }
    if (!order?.item) {
      fail.set('Nabat-Error', '400'); // the client gets rpc_failed with code and reason
      call.respond('which item?', { headers: fail });
      return;
    }
    const user = call.headers?.get('Nabat-User'); // from the token: the client cannot choose it
    call.respond(JSON.stringify({ order: 4711, item: order.item, for: user }));
  },
});
await nc.flush();
console.log('ready');
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => nc.drain());
