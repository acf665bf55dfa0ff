"""Which replicas are reached at which host? So a container or a pod is known by its address."""

from collections.abc import Mapping

from redis.asyncio import Redis

from backends.records import read as read_registry


async def replicas_by_host(store: Redis) -> Mapping[str, list[str]]:
    """Map hosts in replicas' URLs to the ids of those whose lease holds. Raises RedisError."""
    listing = await read_registry(store)
    hosts: dict[str, list[str]] = {}
    for id_, record in listing.leased.items():
        if listing.ends_at.get(id_, 0.0) > listing.now:
            host = record.replica.url.split("//")[-1].split("/")[0].rpartition(":")[0]
            hosts.setdefault(host, []).append(id_)
    return hosts
