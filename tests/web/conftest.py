"""The app on a real socket over a real history, and a hand that does what keeper and supervisor will do."""

import asyncio
import json
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from shellrunner.access.authenticator import open_authenticator
from shellrunner.clock import Millis
from shellrunner.config import Settings
from shellrunner.keeper.recorder import Recorder
from shellrunner.keeper.slot import SlotReader, SlotWriter, slot_name
from shellrunner.model import Claim, End, Ending, Volume
from shellrunner.service import queue_limits
from shellrunner.store import Head, Store
from shellrunner.store.sqlite.store import Retention, open_store
from shellrunner.supervisor import Controls
from shellrunner.web import Runner, make_app
from shellrunner.web.app_keys import FrontFigures
from shellrunner.web.http.streaming import STREAMS


def now() -> Millis:
    return time.time_ns() // 1_000_000


class Hand:
    """One keeper and its supervisor in one: claims a job, writes its output into a real slot, finishes it."""

    def __init__(self, store: Store, state_dir: Path, keeper: int) -> None:
        self._store, self._keeper = store, keeper
        self._state = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY)
        self._slots = os.open(state_dir / "slots", os.O_RDONLY | os.O_DIRECTORY)
        self._slot = SlotWriter(self._slots, slot_name(keeper))
        self._slot.write_header({"history": store.history, "keeper": keeper})
        self._claim: Claim
        self._recorder: Recorder

    async def claim(self, limit: int = 1 << 40) -> Claim:
        claim = self._claim = await self._store.claim(self._keeper, secrets.token_hex(8))
        self._slot.begin({"job": claim.job_id, "token": claim.token, "history": self._store.history})
        self._recorder = Recorder(self._slot, self._state, claim.job_id, claim.token, limit, attempt=claim.attempt)
        return claim

    def write(self, stdout: bytes = b"", stderr: bytes = b"") -> None:
        for stream, data in enumerate((stdout, stderr)):
            if data:
                self._recorder.store(stream, data)

    async def finish(self, end: End | None = None, next_attempt_at: Millis | None = None) -> None:
        claim = self._claim
        reader = SlotReader(self._slots, slot_name(self._keeper))
        record = reader.find(claim.job_id, claim.token)
        assert record is not None
        told = record.progress
        figures = [told.get(name, 0) for name in ("stdout", "stderr", "stdout_dropped", "stderr_dropped")]
        head = Head(
            reader.data(record, 0, min(sum(figures[:2]), 65536)), reader.index(record, told.get("entries", 0))
        )
        reader.close()
        self._recorder.close()
        end = end or End(Ending.EXITED, now(), exit_code=0, started=claim.claimed, duration=0.25)
        assert await self._store.finish(
            claim.job_id, claim.token, end, Volume(*figures), head, next_attempt_at=next_attempt_at
        )

    def close(self) -> None:
        for fd in (self._slot.fd, self._slots, self._state):
            os.close(fd)


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Event:
    name: str
    data: Any
    id: str | None


@dataclass
class Site:
    """A running service, and a client of it."""

    port: int
    app: web.Application
    runner: Runner
    store: Store
    state_dir: Path
    session: aiohttp.ClientSession
    reasons: list[str]
    ledger: "Ledger"
    hands: list[Hand] = field(default_factory=list)

    def hand(self) -> Hand:
        self.hands.append(Hand(self.store, self.state_dir, len(self.hands) + 1))
        return self.hands[-1]

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
        hand = self.hand()
        assert (await hand.claim()).job_id == job_id
        hand.write(stdout, stderr)
        await hand.finish(end)
        return job_id

    async def raw(self, request: bytes | str, *, until: bytes | None = None) -> bytes:
        """What the server answers to these very bytes, to the end of the connection (or until something comes)."""
        sent = request if isinstance(request, bytes) else request.replace("PORT", str(self.port)).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(sent)
            async with asyncio.timeout(10):
                return await (reader.readuntil(until) if until else reader.read())
        finally:
            writer.close()

    @asynccontextmanager
    async def events(
        self, job_id: int, query: str = "", **headers: str
    ) -> AsyncIterator[tuple[aiohttp.ClientResponse, AsyncIterator[Event]]]:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"http://127.0.0.1:{self.port}/api/statuses/{job_id}/events{query}"
        async with self.session.get(url, headers=names) as response:
            yield response, parse(response.content)

    async def replay(self, job_id: int, query: str = "", **headers: str) -> list[Event]:
        async with asyncio.timeout(10), self.events(job_id, query, **headers) as (response, events):
            assert response.status == 200, await response.read()
            return [event async for event in events]


async def parse(content: aiohttp.StreamReader) -> AsyncIterator[Event]:
    """Read events as the HTML standard's "event stream interpretation" has it (lines end in LF here)."""
    fields: dict[str, str] = {}
    while line := await content.readline():
        text = line.decode().removesuffix("\n")
        if not text:
            if "data" in fields:
                yield Event(fields.get("event", "message"), json.loads(fields["data"]), fields.get("id"))
            fields = {}
        elif not text.startswith(":"):
            name, _, value = text.partition(":")
            assert name in {"event", "data", "id", "retry"}, line
            assert name not in fields, line
            fields[name] = value.removeprefix(" ")


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with serving(tmp_path) as running:
        yield running


@asynccontextmanager
async def serving(state_dir: Path, **sections: Any) -> AsyncIterator[Site]:
    """`sections` are settings: supervisor={"max_queued": 2}."""
    settings = Settings.model_validate({"jobs": {"output_bytes": 1 << 30}, **sections})
    for directory in ("slots", "runs"):
        (state_dir / directory).mkdir(exist_ok=True)
    reasons: list[str] = []
    limits = Retention(None, None, None), queue_limits(settings)
    async with open_store(state_dir, *limits) as store, client() as session:
        ledger = Ledger()
        app = make_app(
            store, settings, ready=lambda: reasons, controls=Controls(store, lambda _: None), render=unmeasured,
            door=await open_authenticator(settings.auth, store), ledger=ledger,
        )  # fmt: skip
        runner = Runner(app, shutdown_timeout=5)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        running = Site(runner.addresses[0][1], app, runner, store, state_dir, session, reasons, ledger)
        try:
            yield running
        finally:
            await runner.cleanup()
            for hand in running.hands:
                hand.close()


class Ledger:
    """The lines of the audit; with `full` set it takes none."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []
        self.full = False

    def __call__(self, event: str, details: Mapping[str, Any]) -> bool:
        if not self.full:
            self.lines.append((event, dict(details)))
        return not self.full


async def unmeasured(front: FrontFigures, *, openmetrics: bool) -> bytes:
    """Without the whole service there is nothing to measure: tests/test_metrics.py has it."""
    return b"# EOF\n" if openmetrics else b""


def client() -> aiohttp.ClientSession:
    # Every socket its own connection, so that none is left half read for the next request.
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True, limit=0), read_bufsize=1 << 22)


async def until(true: Callable[[], Awaitable[bool] | bool], seconds: float = 5.0) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(seconds):
        while True:
            value = true()
            if value if isinstance(value, bool) else await value:
                return
            await asyncio.sleep(0.005)


__all__ = ["STREAMS", "Answer", "Event", "Site", "client", "serving", "until"]
