import { connect } from '@nats-io/transport-node';

const nc = await connect({ servers: process.env.NATS_URL ?? 'nats://127.0.0.1:4222' });
let here;
for (let after = ''; after !== undefined; after = here.next) {
  const request = { room: process.argv[2], limit: 1000, after };
  const reply = await nc.request('nabat.api.presence', JSON.stringify(request), { timeout: 10_000 });
  here = reply.json();
  if (here.error) throw new Error(`${here.error.code}: ${here.error.reason}`);
  for (const { user } of here.members) console.log(user); // and connections, info
}
console.log(`${here.users} users and ${here.anonymous} without a name`);
await nc.close();
