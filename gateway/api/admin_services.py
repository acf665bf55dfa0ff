"""What is the admin API made from, and which form have its bodies?"""

from typing import Protocol

from pydantic import BaseModel, ConfigDict

from backends.clock import Clock
from backends.fleet import Fleet, Replica
from gateway.auth import Authenticator
from gateway.keys import KeyStore
from gateway.settings import Settings


class AdminRegistry(Protocol):
    """What the admin API asks of the registry of replicas; all may raise redis.RedisError."""

    @property
    def fleet(self) -> Fleet:
        """The last snapshot."""
        ...

    async def adopt(self, replica: Replica) -> None:
        """Add a replica that someone else runs."""
        ...

    async def drain(self, replica_id: str) -> bool:
        """Send nothing new to it; False when it is unknown."""
        ...

    async def resume(self, replica_id: str) -> bool:
        """Take a drain back; False when it is unknown."""
        ...

    async def remove(self, replica_id: str) -> bool:
        """Forget it; False when it is unknown."""
        ...


class AdminServices(Protocol):
    """What the admin API is made from."""

    @property
    def settings(self) -> Settings: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def registry(self) -> AdminRegistry: ...
    @property
    def keys(self) -> KeyStore: ...
    @property
    def authenticator(self) -> Authenticator: ...


class AdminBody(BaseModel):
    """A body of the admin API: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid")
