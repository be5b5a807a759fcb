"""The kind of service that end-to-end tests run against: a single host, or what SHELLRUNNER_TEST_STORE names.

SHELLRUNNER_TEST_STORE=cluster has them start an API node and a worker on PostgreSQL; see `cluster_service`.
"""

import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final

from tests.support.service import Service

IS_CLUSTER: Final = os.environ.get("SHELLRUNNER_TEST_STORE") == "cluster"


def new_service(state_dir: Path, *, real_exec: bool = False, **settings: object) -> Service:
    """Return a service of the selected kind, to be started; for the parameters see `Service`."""
    if not IS_CLUSTER:
        return Service(state_dir, real_exec=real_exec, **settings)
    from tests.support.cluster_service import ClusterService  # noqa: PLC0415  needs PostgreSQL

    cluster = ClusterService(state_dir, real_exec=real_exec)
    cluster.settings |= settings
    return cluster


@asynccontextmanager
async def at_port(state_dir: Path, port: int, **settings: object) -> AsyncIterator[Service]:
    """Run a service of the selected kind at a port of one's choice (0: any)."""
    service = new_service(state_dir)
    service.program = [sys.executable, "-m", "shellrunner", "serve", "--port", str(port)]
    await service.start(**settings)
    try:
        yield service
    finally:
        await service.clear_away()


def at_fixed_port(state_dir: Path, **settings: object) -> AbstractAsyncContextManager[Service]:
    """Run a service that comes back at the same address when it is killed and started again."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return at_port(state_dir, port, **settings)
