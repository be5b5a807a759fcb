"""The services that are attacked: each stays, because nothing may have come of what was tried before."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.attack import Target, serving


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def alone(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    """Yield a service without tokens."""
    async with serving(tmp_path_factory.mktemp("alone")) as target:
        yield target


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    """Yield a service with tokens."""
    async with serving(tmp_path_factory.mktemp("guarded"), tokens=True, AUTH__SESSION_COOKIE="true") as target:
        yield target
