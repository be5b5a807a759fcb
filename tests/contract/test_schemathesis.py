"""schemathesis tries every operation of the OpenAPI document against a real service: all checks, all phases.

It makes requests up and the service runs what it is sent, so three things keep that harmless. The shell is
`/bin/true`, which takes any line and does nothing; every list of words is changed just before it is sent, so that it
begins with `/bin/true` (hooks.py; the history is searched afterwards for one that does not); and the PATH of jobs is
an empty directory. No results are sent anywhere, because config names no hosts for callbacks.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.selected_service import new_service
from tests.support.service import Service

pytest.importorskip("schemathesis")
from tests.contract.hooks import HARMLESS

HOOKS = "tests.contract.hooks"
HERE = Path(__file__).parent
SECONDS = int(os.environ.get("CONTRACT_SECONDS", "120"))  # for as long it tries


@pytest.fixture
async def harmless(tmp_path: Path) -> AsyncIterator[Any]:
    """Yield a service that runs nothing but /bin/true."""
    (tmp_path / "empty").mkdir()
    service = new_service(tmp_path / "state")
    environment = f'{{"PATH": "{tmp_path / "empty"}"}}'
    await service.start(JOBS__SHELL=f'["{HARMLESS}"]', JOBS__ENVIRONMENT=environment, JOBS__KILL_GRACE=0)
    yield service
    await service.clear_away()


@pytest.mark.timeout(SECONDS + 180)
async def test_schemathesis_finds_no_failure(harmless: Any, tmp_path: Path) -> None:
    """Every generated request is answered as the document describes, and nothing but /bin/true was run."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml"), "--no-color",
        "run", f"{harmless.url}/api/openapi.json", "--max-time", str(SECONDS),
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(HERE.parent.parent), "SCHEMATHESIS_HOOKS": HOOKS},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    print(output.decode(errors="replace"))
    assert process.returncode == 0
    assert [entry for entry in harmless.log if entry.get("level") in ("error", "critical")] == []
    assert await programs(harmless) <= {HARMLESS, None}


async def programs(service: Service) -> Any:
    """Return the program of every job in the history."""
    found, following = set(), "/api/jobs?limit=1000&fields=argv"
    while following:
        _, _, page = await service.get(following)
        found |= {row["argv"] and row["argv"][0] for row in page["jobs"]}
        following = page["next"]
    return found
