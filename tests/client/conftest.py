"""Fixtures of the client's tests: a shared service, and a TCP proxy to it that can break connections."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.cli.conftest import shared  # noqa: F401  the same kind of service
from tests.support.service import Service
from tests.support.tcp_proxy import TcpProxy


@pytest_asyncio.fixture(loop_scope="session")
async def wire(shared: Service) -> AsyncIterator[TcpProxy]:  # noqa: F811
    """Yield a TCP proxy to the service."""
    async with TcpProxy(shared.url) as between:
        yield between
