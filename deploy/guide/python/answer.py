import asyncio
import json
import os

import nats


nc = None


async def create(call):
    try:
        item = json.loads(call.data)["item"]
    except (ValueError, KeyError, TypeError):
        # The client gets rpc_failed with code and reason.
        await nc.publish(call.reply, b"which item?", headers={"Nabat-Error": "400"})
        return
    user = (call.headers or {}).get("Nabat-User")  # from the token: the client cannot choose it
    await call.respond(json.dumps({"order": 4711, "item": item, "for": user}).encode())


async def main():
    global nc
    nc = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    await nc.subscribe("rpc.orders.create", queue="orders", cb=create)  # several share the work
    await nc.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
