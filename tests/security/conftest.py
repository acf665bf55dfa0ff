"""What the tests of this package share."""

from collections.abc import AsyncIterator

import pytest

from tests.security.tenants import Site, two_tenants


@pytest.fixture(scope="module")
async def site(store_url: str) -> AsyncIterator[Site]:
    """Two tenants, in a database that no other test empties."""
    async with two_tenants(store_url.replace("db=0", "db=11")) as found:
        yield found
