import asyncio
import json
import os

import nats
import nats.errors


async def main():
    nc = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    # NATS remembers under the durable name what was done.
    events = await nc.jetstream().pull_subscribe("nabat.event.*.orders.>", durable="shop", stream="NABAT_EVENTS")
    print("ready", flush=True)
    while True:
        try:
            batch = await events.fetch(100, timeout=30)
        except nats.errors.TimeoutError:
            continue  # nothing has happened
        for m in batch:
            event = json.loads(m.data)
            print(event["kind"], event["room"], event.get("user", ""), flush=True)
            await m.ack()  # done: without it the event comes again


asyncio.run(main())
