import { connect } from '@nats-io/transport-node';

const nc = await connect({ servers: process.env.NATS_URL ?? 'nats://127.0.0.1:4222' });
const request = { user: process.argv[2], reason: 'logged out everywhere' };
const reply = await nc.request('nabat.api.user.revoke', JSON.stringify(request), { timeout: 10_000 });
const answer = reply.json();
if (answer.error) throw new Error(`${answer.error.code}: ${answer.error.reason}`);
console.log(JSON.stringify(answer));
await nc.close();
