"""How are tenants kept apart inside an engine that serves all of them?

SGLang's prefix cache answers faster to what it has seen: without a salt, one tenant could tell by
the time to the first token whether another has sent a text. `cache_salt` (0.5.23,
srt/entrypoints/openai/protocol.py) makes equal prefixes of two tenants different ones.
"""

import hashlib

from gateway.settings_serving import Isolation

SALTED = frozenset({"/v1/chat/completions", "/v1/completions"})
UNSALTED_TENANT = "default"


def salt_of(tenant: str, how: Isolation) -> str | None:
    """Give a tenant's salt; None where there is none. The same in every gateway, for ever.

    It need not be secret: what a caller sends under this name is dropped.
    """
    if not how.cache_salt or tenant == UNSALTED_TENANT:
        return None
    return hashlib.sha256(f"sluice cache salt of {tenant}".encode()).hexdigest()[:32]
