"""Fixtures of the command line's tests: a user at a terminal, and a service shared by all of them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.command_line import Typist
from tests.support.selected_service import new_service
from tests.support.service import Service


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """Yield a service that no test stops, with a queue that runs one job at a time."""
    service = new_service(tmp_path_factory.mktemp("shared") / "state", QUEUES='{"one": {"max_running": 1}}')
    await service.start(JOBS__OUTPUT_BYTES=20_000_000, JOBS__KILL_GRACE=0.2)
    try:
        yield service
    finally:
        await service.clear_away()


@pytest.fixture
def typist(shared: Service, tmp_path: Path) -> Typist:
    """Return a user whose environment has the service's address."""
    return Typist(tmp_path, SHELLRUNNER_URL=shared.url)
