"""How does an admin route note what it has changed?"""

from fastapi import Request

from gateway.audit import Audit


async def audit(request: Request, action: str, **what: object) -> None:
    """Note a change; the admin key has one owner, so who is where it came from."""
    found: Audit = request.app.state.audit
    await found.write(action, actor(request), **what)


def actor(request: Request) -> str:
    """Name who asks."""
    return f"admin@{request.client.host if request.client else 'unknown'}"
