"""How does a caller watch a background response, from any event on?"""

from collections.abc import AsyncIterator

from backends.clock import Clock
from gateway.responses_background import settled
from gateway.responses_store import ResponsesStore
from gateway.wire.sse import DONE

POLL_S = 0.1
LOOK_EVERY = 10
_LAST = tuple(b"event: response.%b\n" % end for end in (b"completed", b"incomplete", b"failed"))


async def follow(
    store: ResponsesStore, clock: Clock, tenant: str, response_id: str, *, after: int
) -> AsyncIterator[bytes]:
    """Give the frames of the events after number `after`, until the response has ended; then DONE.

    Ends also where a response was cancelled or deleted, which no event tells.
    """
    quiet = 0
    gone = False
    while True:
        frames = await store.events(tenant, response_id, after) or []
        for frame in frames:
            yield frame
        if frames:
            after, quiet = after + len(frames), 0
            if frames[-1].startswith(_LAST):
                break
            continue
        # The end is stored a moment before its event: look once more after it was seen.
        if gone:
            break
        quiet += 1
        if quiet % LOOK_EVERY == 0:
            found = await settled(store, tenant, response_id, now=clock.now())
            gone = found is None or found.has_ended
        await clock.sleep(POLL_S if not gone else 10 * POLL_S)
    yield DONE
