"""What the tests of the client share: a service that all of them use, and a wire to it that can be cut."""

import pytest_asyncio

from tests.cli.conftest import shared  # noqa: F401  the same kind of service
from tests.support.tcp_proxy import TcpProxy


@pytest_asyncio.fixture(loop_scope="session")
async def wire(shared):  # noqa: F811
    """A wire to the service."""
    async with TcpProxy(shared.url) as between:
        yield between
