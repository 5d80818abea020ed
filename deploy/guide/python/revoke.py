import asyncio
import json
import os
import sys

import nats


async def main():
    nc = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    request = {"user": sys.argv[1], "reason": "logged out everywhere"}
    reply = await nc.request("nabat.api.user.revoke", json.dumps(request).encode(), timeout=10)
    answer = json.loads(reply.data)
    if "error" in answer:
        raise SystemExit(f"{answer['error']['code']}: {answer['error']['reason']}")
    print(json.dumps(answer))
    await nc.close()


asyncio.run(main())
