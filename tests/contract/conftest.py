"""One tour of one service; all tests here read its exchanges."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.contract import tour
from tests.support.selected_service import new_service


@pytest.fixture(scope="session")
def exchanges(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Every exchange of the tour."""
    return asyncio.run(_taken(tmp_path_factory.mktemp("contract") / "state"))


async def _taken(state_dir: Path) -> Any:
    service = new_service(state_dir)
    await service.start(JOBS__KILL_GRACE=1)
    try:
        return await tour.take(service.url)
    finally:
        await service.clear_away()
