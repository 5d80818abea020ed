import asyncio
import json
import os

import nats


async def main():
    nc = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    grant = {"sub": "alice", "subscribe": ["orders.*"], "rooms": ["user.alice"], "rpc": ["orders.>"], "ttl": "1h"}
    reply = await nc.request("nabat.api.token.issue", json.dumps(grant).encode(), timeout=10)
    answer = json.loads(reply.data)
    if "error" in answer:
        raise SystemExit(f"{answer['error']['code']}: {answer['error']['reason']}")
    print(answer["token"])
    await nc.close()


asyncio.run(main())
