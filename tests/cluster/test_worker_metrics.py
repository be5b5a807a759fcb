"""What a worker serves where it listens: probes and the metrics of its own process, and nothing else."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from shellrunner.config import load
from shellrunner.errors import ConfigError
from tests.support.cluster_service import ClusterService
from tests.support.postgres import PostgresServer
from tests.support.tokens import hash_of, secret_of
from tests.support.waiting import until
from tests.test_metrics import OF_SEVERAL_HOSTS

READER, WATCHER = "reader", "watcher"


class Probed(ClusterService):
    """A cluster whose worker listens on a Unix socket, or an address."""

    def __init__(self, state_dir: Path, listen: str, **settings: Any) -> None:
        """Start nothing yet."""
        self.database_server = PostgresServer()
        super().__init__(state_dir, server=self.database_server.start(), WORKER__LISTEN=listen, **settings)
        path = listen.removeprefix("unix:")
        self.probes = aiohttp.ClientSession(connector=aiohttp.UnixConnector(path) if path != listen else None)
        self.base = "http://localhost" if path != listen else f"http://{listen}"

    async def probe(self, path: str, **options: Any) -> tuple[int, str]:
        """Ask the worker; return the status and the body."""
        async with self.probes.get(self.base + path, **options) as response:
            return response.status, await response.text()

    async def samples(self) -> dict[tuple[str, str], float]:
        """Return its metrics, by name and the value of their first label."""
        status, text = await self.probe("/metrics")
        assert status == 200, text
        families = list(parse_text(text))
        return {(s.name, next(iter(s.labels.values()), "")): s.value for family in families for s in family.samples}

    async def clear_away(self) -> None:
        await self.probes.close()
        await super().clear_away()
        await asyncio.to_thread(self.database_server.end)


@pytest.fixture
async def probed(tmp_path: Path) -> AsyncIterator[Probed]:
    """Yield one on a Unix socket, with a PostgreSQL of its own."""
    made = Probed(tmp_path / "state", f"unix:{tmp_path}/probes")
    try:
        yield await made.start()
    finally:
        await made.clear_away()


@pytest.mark.heavy
async def test_a_worker_serves_its_own_figures_also_while_the_database_is_away(
    probed: Probed, tmp_path: Path
) -> None:
    """What it runs, has claimed and keeps for later; a probe that it lives, and one that it can work."""
    assert await probed.probe("/healthz") == (200, "ok\n")
    assert await probed.probe("/readyz") == (200, "ready\n")
    job = await probed.submit(f"head -c 300000 /dev/zero; while [ ! -e {tmp_path}/gate ]; do sleep 0.05; done")
    await probed.worker.running(job)

    async def is_spilled() -> bool:
        return (await probed.samples())["shellrunner_spill_bytes", ""] > 200_000

    await until(is_spilled)
    samples = await probed.samples()
    assert {name for name, _ in samples} >= OF_SEVERAL_HOSTS
    assert not [name for name, _ in samples if name.startswith(("shellrunner_queue", "shellrunner_jobs{"))]
    assert samples["shellrunner_keepers", "busy"] == samples["shellrunner_claims_total", ""] == 1
    assert samples["shellrunner_database_available", ""] == 1
    await asyncio.to_thread(probed.database_server.stop, "immediate")
    (tmp_path / "gate").touch()

    async def keeps_the_end() -> bool:
        now = await probed.samples()
        return now["shellrunner_unrecorded_ends", ""] == 1 and now["shellrunner_database_available", ""] == 0

    await until(keeps_the_end)
    status, text = await probed.probe("/readyz")
    assert (status, "store-unavailable" in text) == (503, True)
    assert (await probed.probe("/healthz"))[0] == 200
    await asyncio.to_thread(probed.database_server.start)

    async def has_caught_up() -> bool:
        now = await probed.samples()
        # The spill is removed once the end is recorded, on a thread of its own.
        left = ("shellrunner_unrecorded_ends", ""), ("shellrunner_spill_bytes", ""), ("shellrunner_keepers", "busy")
        return not any(now[each] for each in left)

    await until(has_caught_up, 60)
    samples = await probed.samples()
    assert samples["shellrunner_output_bytes_total", "stdout"] == 300_000
    assert samples["shellrunner_unsent_outputs", "ended"] == 0


@pytest.mark.heavy
async def test_a_worker_serves_nothing_else_and_only_to_readers(tmp_path: Path) -> None:
    """Three routes, at an address that is accepted as Host; /metrics needs a token with `read`."""
    with socket.create_server(("127.0.0.3", 0)) as free:
        listen = f"127.0.0.3:{free.getsockname()[1]}"
    tokens = [
        {"name": READER, "hash": hash_of(READER), "scopes": ["read"]},
        {"name": WATCHER, "hash": hash_of(WATCHER), "scopes": ["run"]},
    ]
    probed = Probed(tmp_path / "state", listen, AUTH__TOKENS=json.dumps(tokens))
    try:
        await probed.start()
        reader, watcher = ({"Authorization": f"Bearer {secret_of(name)}"} for name in (READER, WATCHER))
        assert (await probed.probe("/healthz"))[0] == 200
        assert (await probed.probe("/metrics"))[0] == 401
        assert (await probed.probe("/metrics", headers=watcher))[0] == 403
        assert (await probed.probe("/metrics", headers=reader))[0] == 200
        assert (await probed.probe("/metrics", headers={**reader, "Host": "elsewhere.example"}))[0] == 421
        for path in ("/", "/api", "/api/jobs", "/api/statuses", "/llms.txt"):
            assert (await probed.probe(path, headers=reader))[0] == 404
    finally:
        await probed.clear_away()


def test_an_address_for_others_requires_tokens() -> None:
    """As for a node with the API: without tokens a worker would disclose its figures to anybody."""
    with pytest.raises(ConfigError, match=r"worker\.listen"):
        load(None, worker={"listen": ["0.0.0.0:9000"]})
    assert load(None, worker={"listen": "127.0.0.1:9000"}).worker.addresses[0].port == 9000
