import { AckPolicy, jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';

const nc = await connect({ servers: process.env.NATS_URL ?? 'nats://127.0.0.1:4222' });
const manager = await jetstreamManager(nc);
await manager.consumers.add('NABAT_EVENTS', {
  durable_name: 'shop', // NATS remembers under this name what was done
  filter_subject: 'nabat.event.*.orders.>',
  ack_policy: AckPolicy.Explicit,
});
const consumer = await jetstream(nc).consumers.get('NABAT_EVENTS', 'shop');
const events = await consumer.consume();
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => events.close());
console.log('ready');
for await (const m of events) {
  const { kind, room, user } = m.json();
  console.log(kind, room, user);
  m.ack(); // done: without it the event comes again
}
await nc.drain();
