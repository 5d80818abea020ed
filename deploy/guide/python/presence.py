import asyncio
import json
import os
import sys

import nats


async def main():
    nc = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    after = ""
    while after is not None:
        request = {"room": sys.argv[1], "limit": 1000, "after": after}
        reply = await nc.request("nabat.api.presence", json.dumps(request).encode(), timeout=10)
        here = json.loads(reply.data)
        if "error" in here:
            raise SystemExit(f"{here['error']['code']}: {here['error']['reason']}")
        for member in here["members"]:
            print(member["user"])  # and connections, info
        after = here.get("next")
    print(f"{here['users']} users and {here['anonymous']} without a name")
    await nc.close()


asyncio.run(main())
