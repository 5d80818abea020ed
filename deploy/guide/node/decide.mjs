import { connect } from '@nats-io/transport-node';

const nc = await connect({ servers: process.env.NATS_URL ?? 'nats://127.0.0.1:4222' });
nc.subscribe('hook.publish', {
  queue: 'moderators', // several of this program share the work
  callback: (_, m) => {
    const { text, data } = m.json(); // and room, user, event …
    const spam = (text ?? JSON.stringify(data) ?? '').includes('spam');
    m.respond(JSON.stringify(spam ? { allow: false, reason: 'no spam, please' } : { allow: true }));
  },
});
await nc.flush();
console.log('ready');
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => nc.drain());
