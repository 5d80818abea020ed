import asyncio
import json
import os

import nats


async def main():
    nc = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    stored = await nc.jetstream().publish(
        "room.orders.17",
        json.dumps({"state": "paid"}).encode(),
        timeout=10,
        headers={
            "Nabat-Event": "state",  # handlers of clients go by it
            "Nabat-User": "shop",  # who says so
            "Nats-Msg-Id": "orders.17-p1",  # of this fact: sent twice it is stored once
        },
    )
    print(f"offset {stored.seq}, duplicate {str(bool(stored.duplicate)).lower()}")
    await nc.close()


asyncio.run(main())
