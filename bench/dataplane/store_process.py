"""What store and which key does the gateway under test have? Runs until its input closes.

Prints one line of JSON: {"url": ..., "key": ..., "pid": ...}.
"""

import asyncio
import json
import sys
from pathlib import Path

from backends.clock import SystemClock
from backends.store import connect, open_store
from gateway.keys import Grant, KeyStore


async def main(directory: Path) -> None:
    """Keep a store until standard input ends."""
    async with open_store(None, directory) as store:
        redis = connect(store.url)
        key, _ = await KeyStore(redis, SystemClock()).create(Grant(name="bench"))
        await redis.aclose()
        print(json.dumps({"url": store.url, "key": key}), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
