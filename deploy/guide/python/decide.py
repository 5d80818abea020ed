import asyncio
import json
import os

import nats


async def decide(m):
    question = json.loads(m.data)  # room, user, event …
    said = question.get("text") or json.dumps(question.get("data"))
    answer = {"allow": False, "reason": "no spam, please"} if "spam" in said else {"allow": True}
    await m.respond(json.dumps(answer).encode())


async def main():
    nc = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    await nc.subscribe("hook.publish", queue="moderators", cb=decide)  # several share the work
    await nc.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
