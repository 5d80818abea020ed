import { connect } from '@nats-io/transport-node';

const nc = await connect({ servers: process.env.NATS_URL ?? 'nats://127.0.0.1:4222' });
const grant = { sub: 'alice', subscribe: ['orders.*'], rooms: ['user.alice'], rpc: ['orders.>'], ttl: '1h' };
const reply = await nc.request('nabat.api.token.issue', JSON.stringify(grant), { timeout: 10_000 });
const { token, error } = reply.json();
if (error) throw new Error(`${error.code}: ${error.reason}`);
console.log(token);
await nc.close();
