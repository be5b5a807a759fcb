"""The app on a real socket in the test's own process, over a real history, with simulated keepers."""

import asyncio
import json
import secrets
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import aiohttp
from aiohttp import web

from shellrunner.access.authenticator import open_authenticator
from shellrunner.clock import Millis, now_ms
from shellrunner.config import Address, Settings
from shellrunner.errors import NoSuchKeeper
from shellrunner.keeper.recorder import Recorder
from shellrunner.model import Claim, End, Ending
from shellrunner.service.limits import queue_limits
from shellrunner.service.network.binding import Listeners, bound_listeners
from shellrunner.store import QueueLimits, Retention, Store
from shellrunner.store.sqlite.composition import open_store
from shellrunner.supervisor import Controls
from shellrunner.web import Runner, make_app
from shellrunner.web.app_keys import HttpFigures, NotReady
from tests.support.selected_service import IS_CLUSTER
from tests.support.simulated_keeper import SimulatedKeeper
from tests.support.sse import Event, parse
from tests.support.waiting import WAIT_TIMEOUT, until


class SimulatedRunner:
    """A keeper and its supervisor in one: claims a job, writes its output into a real slot, finishes it."""

    def __init__(self, store: Store, state_dir: Path, number: int) -> None:
        self._store = store
        self._keeper = SimulatedKeeper(state_dir, number, {"history": store.history_id, "keeper": number})
        self._claim: Claim
        self._recorder: Recorder

    async def claim(self, limit: int = 1 << 40) -> Claim:
        """Claim the next job, and start it; `limit` bytes of its output are kept."""
        claim = self._claim = await self._store.claim(self._keeper.number, secrets.token_hex(8))
        self._recorder = self._keeper.begin(
            claim.job_id, claim.token, limit, claim.attempt, history=self._store.history_id
        )
        return claim

    def write(self, stdout: bytes = b"", stderr: bytes = b"") -> None:
        """Store what the command wrote, stdout first."""
        for stream, data in enumerate((stdout, stderr)):
            if data:
                self._recorder.store(stream, data)

    async def finish(self, end: End | None = None, next_attempt_at: Millis | None = None) -> None:
        """End the job (by default with exit code 0), or let it be tried again at a time."""
        claim = self._claim
        volume, head = self._keeper.record(claim.job_id, claim.token)
        self._recorder.close()
        end = end or End(Ending.EXITED, now_ms(), exit_code=0, started=claim.claimed, duration=0.25)
        assert await self._store.finish(claim.job_id, claim.token, end, volume, head, next_attempt_at=next_attempt_at)

    def close(self) -> None:
        """Release the slot."""
        self._keeper.close()


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Site:
    """A running service, and a client of it."""

    port: int
    app: web.Application
    runner: Runner
    store: Store
    state_dir: Path
    worker_store: Store  # that of the node that runs jobs: another one than the app's, if the tests run on a cluster
    session: aiohttp.ClientSession
    reasons: list[NotReady]
    audit: "Ledger"
    tls_socket: socket.socket  # bound, for a test that serves the same app by TLS
    runners: list[SimulatedRunner] = field(default_factory=list)

    @property
    def connections(self) -> list[Any]:
        """The connections that the server has open."""
        assert self.runner.server is not None
        return list(self.runner.server.connections)

    def simulated_runner(self) -> SimulatedRunner:
        """Return one more simulated keeper and supervisor."""
        self.runners.append(SimulatedRunner(self.worker_store, self.state_dir, len(self.runners) + 1))
        return self.runners[-1]

    async def ask(self, verb: str, path: str, **more: Any) -> Answer:
        url = f"http://127.0.0.1:{self.port}{path}"
        async with self.session.request(verb, url, allow_redirects=False, **more) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str, **more: Any) -> Answer:
        return await self.ask("GET", path, **more)

    async def submit(self, **job: Any) -> int:
        given = job if "argv" in job else {"command": "true", **job}
        answer = await self.ask("POST", "/api/jobs", json=given)
        assert answer.status == 202, answer.body
        return int(answer.json["job_id"])

    async def done(self, stdout: bytes = b"", stderr: bytes = b"", end: End | None = None, **job: Any) -> int:
        """Have a job that wrote this and is over."""
        job_id = await self.submit(**job)
        runner = self.simulated_runner()
        assert (await runner.claim()).job_id == job_id
        runner.write(stdout, stderr)
        await runner.finish(end)
        return job_id

    async def raw(
        self,
        request: bytes | str,
        *,
        until: bytes | None = None,
        local: tuple[str, int] | None = None,
        path: str | None = None,
    ) -> bytes:
        """Return the response to these very bytes, to the end of the connection (or until something comes).

        They are sent from the address `local`, or over the Unix socket at `path`.
        """
        sent = request if isinstance(request, bytes) else request.replace("PORT", str(self.port)).encode()
        if path is not None:
            reader, writer = await asyncio.open_unix_connection(path)
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=local)
        try:
            writer.write(sent)
            async with asyncio.timeout(10):
                return await (reader.readuntil(until) if until else reader.read())
        finally:
            writer.close()

    @asynccontextmanager
    async def events(
        self, job_id: int, query: str = "", **headers: str | None
    ) -> AsyncIterator[tuple[aiohttp.ClientResponse, AsyncIterator[Event]]]:
        names = {name.replace("_", "-"): value for name, value in headers.items() if value is not None}
        url = f"http://127.0.0.1:{self.port}/api/statuses/{job_id}/events{query}"
        async with self.session.get(url, headers=names) as response:
            yield response, parse(response.content)

    async def replay(self, job_id: int, query: str = "", **headers: str | None) -> list[Event]:
        async with asyncio.timeout(WAIT_TIMEOUT), self.events(job_id, query, **headers) as (response, events):
            assert response.status == 200, await response.read()
            return [event async for event in events]


class NoKeepers:
    """No keeper is unknown."""

    async def find(self) -> Sequence[Any]:
        return ()

    async def end(self, keeper: Any, /) -> None:
        raise NoSuchKeeper(keeper.number)


class NoUsage:
    """Nothing is known of any process."""

    processors = 1

    async def measure(self) -> Mapping[int, Any]:
        return {}

    async def measure_job(self, _: int, /) -> None:
        return None


@asynccontextmanager
async def serving(state_dir: Path, **sections: Any) -> AsyncIterator[Site]:
    """Take `sections` as settings: supervisor={"max_queued": 2}."""
    settings = Settings.model_validate({"jobs": {"output_bytes": 1 << 30}, **sections})
    for directory in ("slots", "runs"):
        (state_dir / directory).mkdir(exist_ok=True)
    reasons: list[NotReady] = []

    async def not_ready_reasons() -> list[NotReady]:
        return reasons

    async with (
        opened(state_dir, queue_limits(settings)) as (store, worker_store),
        client() as session,
        bound() as listeners,
    ):
        ledger = Ledger()
        app = make_app(
            store, settings, not_ready_reasons=not_ready_reasons, controls=Controls(store, lambda _: None),
            render_metrics=unmeasured, audit_sink=ledger, unknown_keepers=NoKeepers(), usage_reader=NoUsage(),
            hosts=store.hosts,
            authenticator=await open_authenticator(settings.auth, store), bound_addresses=listeners.bound_addresses,
        )  # fmt: skip
        runner = Runner(app, shutdown_timeout=5)
        await runner.setup()
        sockets = cast("Sequence[socket.socket]", listeners.endpoints)
        tls = sockets[len(sockets) // 2]
        for listener in sockets[: len(sockets) // 2]:
            await web.SockSite(runner, listener).start()
        port = runner.addresses[0][1]
        running = Site(port, app, runner, store, state_dir, worker_store, session, reasons, ledger, tls)
        try:
            yield running
        finally:
            await runner.cleanup()
            for simulated in running.runners:
                simulated.close()


@asynccontextmanager
async def opened(state_dir: Path, queues: QueueLimits) -> AsyncIterator[tuple[Store, Store]]:
    """Open the history for the app and for who runs jobs: one store, or those of two nodes of a cluster."""
    if not IS_CLUSTER:
        async with open_store(state_dir, Retention(None, None, None), queues) as store:
            yield store, store
        return
    from tests.support import nodes  # noqa: PLC0415  needs PostgreSQL

    with nodes.cluster_of(state_dir) as cluster:
        async with (
            cluster.node("node", queues=queues, claims=False) as store,
            cluster.node("worker", queues=queues, directory=".", slots=100) as worker_store,
        ):
            await until(lambda: store._parts.membership.peers, what="the node knows the worker")
            yield store, worker_store


@asynccontextmanager
async def bound() -> AsyncIterator[Listeners]:
    """Yield both loopback addresses at two free ports."""
    with bound_listeners([Address("localhost"), Address("localhost")]) as listeners:
        yield listeners


class Ledger:
    """The lines of the audit; with `full` set it takes none."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []
        self.full = False

    async def write(self, event: str, details: Mapping[str, Any]) -> bool:
        return self.post(event, details)

    def post(self, event: str, details: Mapping[str, Any]) -> bool:
        if not self.full:
            self.lines.append((event, dict(details)))
        return not self.full


async def unmeasured(figures: HttpFigures, *, openmetrics: bool) -> bytes:
    """Have no metrics, which need the whole service: tests/test_metrics.py has them."""
    return b"# EOF\n" if openmetrics else b""


def client() -> aiohttp.ClientSession:
    # Every socket its own connection, so that none is left half read for the next request.
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True, limit=0), read_bufsize=1 << 22)
