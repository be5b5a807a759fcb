"""Revocation at once: what is open for a token ends when the token does, and not a moment before."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from http.cookies import SimpleCookie
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from shellrunner.config import AuthSettings
from shellrunner.model import JobSpec
from shellrunner.store import DeleteCount, Filters
from shellrunner.store.query import selection
from shellrunner.web.app_keys import AUTHENTICATOR
from shellrunner.web.http.connections import CONNECTIONS
from shellrunner.web.http.revocation import REVOCATIONS
from shellrunner.web.http.streaming import STREAMS
from shellrunner.web.security.audit import AUDIT
from shellrunner.wire import parse
from tests.support.attack import Reply, bearer, looking, read_reply, request
from tests.support.selected_service import IS_CLUSTER
from tests.support.site import Site, serving
from tests.support.tokens import hash_of, secret_of
from tests.support.waiting import WAIT_TIMEOUT, until

END_TIMEOUT = 1.0  # seconds within which everything must have ended


def table(name: str, **changed: Any) -> dict[str, Any]:
    """Return the settings of a token."""
    return {"name": name, "hash": hash_of(name), "scopes": ["read", "run"], **changed}


def auth(*tables: dict[str, Any]) -> AuthSettings:
    """Return the settings of these tokens, with sessions."""
    return AuthSettings.model_validate({"tokens": [*tables], "tokens_file": None, "session_cookie": True})


KEPT = table("kept")
CHANGES = {
    "removed": auth(KEPT),
    "may not read": auth(KEPT, table("ci", scopes=["run"])),
    "another user": auth(KEPT, table("ci", run_as="root")),
    "some commands": auth(KEPT, table("ci", commands=[{"command": "true"}])),
    "expired": auth(KEPT, table("ci", expires="2020-01-01T00:00:00Z")),
}


@asynccontextmanager
async def guarded(path: Path, *tables: dict[str, Any]) -> AsyncIterator[Site]:
    """Yield a site with tokens."""
    tokens = [*(tables or (table("ci"),)), KEPT]
    async with serving(path, auth={"tokens": tokens, "tokens_file": None, "session_cookie": True}) as site:
        yield site


class Line:
    """One connection, kept open."""

    def __init__(self, site: Site, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._site, self.reader, self._writer = site, reader, writer

    def send(self, sent: bytes) -> None:
        """Send these bytes."""
        self._writer.write(sent.replace(b"PORT", str(self._site.port).encode()))

    async def ask(self, sent: bytes) -> Reply:
        """Send a request; return the response."""
        self.send(sent)
        reply = await read_reply(self.reader)
        assert reply is not None
        return reply

    async def follow(self, sent: bytes) -> None:
        """Send a request for a stream, and read what comes of it at first."""
        self.send(sent)
        assert (await self.reader.readline()).startswith(b"HTTP/1.1 200 ")
        await self.reader.readuntil(b"\r\n\r\n")

    async def ended(self) -> bytes:
        """Read to the end of the connection; return what came, of which a reset connection may have lost the last."""
        found = b""
        async with asyncio.timeout(END_TIMEOUT):
            while True:
                try:
                    piece = await self.reader.read(1 << 16)
                except ConnectionError:
                    return found
                if not piece:
                    return found
                found += piece

    def is_open(self) -> bool:
        """Return whether the server has not closed it, as far as was noticed."""
        return not self.reader.at_eof() and self.reader.exception() is None


@asynccontextmanager
async def lines(site: Site, number: int) -> AsyncIterator[list[Line]]:
    """Yield so many connections to the site."""
    made = [await asyncio.open_connection("127.0.0.1", site.port) for _ in range(number)]
    try:
        yield [Line(site, *pair) for pair in made]
    finally:
        for _, writer in made:
            writer.close()


async def cookie(line: Line) -> str:
    """Begin a session with the token `ci`; return the header with its cookie."""
    reply = await line.ask(looking("/api/session", bearer(secret_of("ci")), verb="POST"))
    ((name, morsel),) = SimpleCookie(reply.one("Set-Cookie")).items()
    return f"Cookie: {name}={morsel.value}"


async def running_job(site: Site) -> int:
    """Have a job that runs, and has written something."""
    job = await site.store.add(JobSpec(command="true"))
    runner = site.simulated_runner()
    await runner.claim()
    runner.write(b"begun\n")
    return job.id


@pytest.mark.parametrize("changed", CHANGES)
async def test_what_is_open_ends_with_the_token(tmp_path: Path, changed: str) -> None:
    """At a reload streams by token and by cookie are cut, waits answered, idle connections closed; others go on."""
    async with guarded(tmp_path) as site, lines(site, 10) as made:
        job = await running_job(site)
        *cut, polling, submitting, idle, kept_stream, kept_idle = made
        ci, kept = bearer(secret_of("ci")), bearer(secret_of("kept"))
        session = await cookie(idle)
        for line, path, who in zip(
            [*cut, kept_stream],
            (f"{job}/events", f"{job}/output?follow=true", "events", "events", f"{job}/events", f"{job}/events"),
            (ci, ci, ci, session, session, kept),
            strict=True,
        ):
            await line.follow(looking(f"/api/statuses/{path}", who))
        polling.send(looking(f"/api/statuses/{job}", ci, "Prefer: wait=50"))
        submitting.send(request("POST", "/api/jobs", ci, "Prefer: wait=50"))
        assert (await idle.ask(looking("/api", ci))).status == 200
        assert (await kept_idle.ask(looking("/api", kept))).status == 200
        await until(lambda: len(site.app[REVOCATIONS]) == 10)
        await until(lambda: site.app[STREAMS].count().total() == 6)

        site.app[AUTHENTICATOR].reload(CHANGES[changed])
        for line in cut:
            assert not (await line.ended()).endswith(b"\r\n0\r\n\r\n"), "an end that looks complete"
        assert await idle.ended() == b""
        for line, short in ((polling, "401 token-needed"), (submitting, "202")):
            async with asyncio.timeout(END_TIMEOUT):
                reply = await read_reply(line.reader)
            assert reply is not None
            assert reply.short == short
            assert await line.ended() == b""
        assert kept_stream.is_open()
        assert (await kept_idle.ask(looking("/api", kept))).status == 200
        assert site.app[CONNECTIONS].cut["revoked"] == 8
        assert len(site.app[REVOCATIONS]) == 2


async def test_what_is_open_ends_when_the_token_expires(tmp_path: Path) -> None:
    """Within a moment after the expiry, and not before, without any request or reload."""
    expires = datetime.now(UTC) + timedelta(seconds=5 if IS_CLUSTER else 1)  # two nodes take longer to open
    async with guarded(tmp_path, table("ci", expires=expires.isoformat())) as site, lines(site, 4) as made:
        stream, plain, polling, idle = made
        job, ci = await running_job(site), bearer(secret_of("ci"))
        session = await cookie(idle)
        await stream.follow(looking("/api/statuses/events", session))
        await plain.follow(looking(f"/api/statuses/{job}/output?follow=true", ci))
        polling.send(looking(f"/api/statuses/{job}", ci, "Prefer: wait=50"))
        assert datetime.now(UTC) < expires, "too slow to see anything"
        assert all(line.is_open() for line in made)
        left = (expires - datetime.now(UTC)).total_seconds()
        async with asyncio.timeout(left + 1 + END_TIMEOUT):
            reply = await read_reply(polling.reader)
            for line in (stream, plain, idle):
                while await _read(line):
                    pass
        assert datetime.now(UTC) - expires < timedelta(seconds=END_TIMEOUT)
        assert datetime.now(UTC) >= expires
        assert reply is not None
        assert reply.short == "401 token-needed"


async def _read(line: Line) -> bytes:
    try:
        return await line.reader.read(1 << 16)
    except ConnectionError:
        return b""


async def test_a_body_that_arrives_after_the_revocation_starts_nothing(tmp_path: Path) -> None:
    """A token that was valid at the head of a request is checked again once the body is there."""
    async with guarded(tmp_path) as site, lines(site, 2) as made:
        sent = request("POST", "/api/jobs", bearer(secret_of("ci")), body=b'{"command":"true"}')
        for line in made:
            line.send(sent[:-4])
        await until(lambda: len(site.app[REVOCATIONS]) == 2)
        made[1].send(sent[-4:])
        reply = await read_reply(made[1].reader)
        assert reply is not None
        assert reply.status == 202
        site.app[AUTHENTICATOR].reload(CHANGES["removed"])
        assert await made[1].ended() == b""
        made[0].send(sent[-4:])
        reply = await read_reply(made[0].reader)
        assert reply is not None
        assert reply.short == "401 token-needed"
        assert await made[0].ended() == b""
        assert len(await site.store.jobs(range(1, 9))) == 1


CHANGING = {
    "job": ("POST", "/api/jobs", {"command": "true"}),
    "batch": ("POST", "/api/jobs/batch", {"jobs": [{"command": "true"}]}),
    "cancel": ("POST", "/api/jobs/1/cancel", None),
    "remove": ("DELETE", "/api/jobs/2", None),
    "pause": ("POST", "/api/queues/default/pause", None),
}


@pytest.mark.parametrize("case", CHANGING)
async def test_nothing_is_done_once_the_token_is_revoked(tmp_path: Path, case: str) -> None:
    """A token that is revoked while the line of the audit log is written changes nothing, and the log says so."""
    verb, path, body = CHANGING[case]
    async with guarded(tmp_path, table("ci", scopes=["read", "run", "admin"])) as site, lines(site, 1) as (line,):
        for _ in range(2):
            await site.store.add(JobSpec(command="true"))
        await site.store.request_cancel(2)
        before = [await site.store.jobs(range(1, 9)), await site.store.queues()]
        write = site.audit.write

        async def revoke(event: str, details: Any) -> bool:
            site.app[AUTHENTICATOR].reload(CHANGES["removed"])
            return await write(event, details)

        site.app[AUDIT]._sink = SimpleNamespace(write=revoke, post=site.audit.post)
        sent = request(verb, path, bearer(secret_of("ci")), body=json.dumps(body).encode() if body else b"")
        assert (await line.ask(sent)).short == "401 token-needed"
        assert [await site.store.jobs(range(1, 9)), await site.store.queues()] == before
        assert [(event, found.get("why")) for event, found in site.audit.lines] == [
            ("accepted", None), ("response", "token-needed")
        ]  # fmt: skip


async def test_a_large_batch_is_not_accepted_for_a_token_that_ends_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token is revoked while a thread parses the batch: no job of it is accepted."""
    loop = asyncio.get_running_loop()
    async with guarded(tmp_path) as site, lines(site, 1) as (line,):
        validate = parse.job_specs

        async def revoke() -> None:
            site.app[AUTHENTICATOR].reload(CHANGES["removed"])

        def parse_slowly(*args: Any, **options: Any) -> Any:
            asyncio.run_coroutine_threadsafe(revoke(), loop).result(WAIT_TIMEOUT)
            return validate(*args, **options)

        monkeypatch.setattr(parse, "job_specs", parse_slowly)
        body = json.dumps({"jobs": [{"command": f"true #{'x' * 100_000}"}] * 3}).encode()
        sent = request("POST", "/api/jobs/batch", bearer(secret_of("ci")), body=body)
        assert (await line.ask(sent)).short == "401 token-needed"
        assert await site.store.jobs(range(1, 9)) == []


async def test_a_long_deletion_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleting many jobs ends with the batch during which the token was revoked, also if the client has gone."""
    monkeypatch.setattr(selection, "BATCH_SIZE", 1)
    async with guarded(tmp_path) as site, lines(site, 1) as (line,):
        jobs = [await site.store.add(JobSpec(command="true")) for _ in range(3)]
        for job in jobs:
            await site.store.request_cancel(job.id)
        delete_jobs = site.store.delete_jobs

        async def delete(filters: Filters, on_deleted: Callable[[Sequence[int]], object]) -> DeleteCount:
            def revoke(deleted: Sequence[int]) -> object:
                site.app[AUTHENTICATOR].reload(CHANGES["removed"])
                return on_deleted(deleted)

            return await delete_jobs(filters, revoke)

        monkeypatch.setattr(site.store, "delete_jobs", delete)
        sent = looking("/api/jobs?confirm=true", bearer(secret_of("ci")), verb="DELETE")
        assert (await line.ask(sent)).short == "401 token-needed"
        assert len(await site.store.jobs(range(1, 9))) == 2


async def test_a_long_cancellation_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelling many jobs ends with the batch during which the token was revoked."""
    monkeypatch.setattr(selection, "BATCH_SIZE", 1)
    async with guarded(tmp_path) as site, lines(site, 1) as (line,):
        jobs = [await site.store.add(JobSpec(command="true")) for _ in range(3)]
        cancel_jobs = site.store.cancel_jobs

        async def cancel(filters: Filters, on_cancelled: Callable[[Sequence[int]], object], **more: bool) -> int:
            def revoke(cancelled: Sequence[int]) -> object:
                site.app[AUTHENTICATOR].reload(CHANGES["removed"])
                return on_cancelled(cancelled)

            return await cancel_jobs(filters, revoke, **more)

        monkeypatch.setattr(site.store, "cancel_jobs", cancel)
        sent = looking("/api/jobs/cancel?confirm=true", bearer(secret_of("ci")), verb="POST")
        assert (await line.ask(sent)).short == "401 token-needed"
        assert [job.done for job in await site.store.jobs(job.id for job in jobs)] == [False, False, True]


async def test_ended_sessions_end_their_streams(tmp_path: Path) -> None:
    """`DELETE /api/session` ends the streams of cookies at once, and none of the token's own."""
    async with guarded(tmp_path) as site, lines(site, 3) as made:
        mine, own, control = made
        await mine.follow(looking("/api/statuses/events", await cookie(control)))
        await own.follow(looking("/api/statuses/events", bearer(secret_of("ci"))))
        assert (await control.ask(looking("/api/session", bearer(secret_of("ci")), verb="DELETE"))).status == 204
        await mine.ended()
        assert own.is_open()
        assert (await control.ask(looking("/api", bearer(secret_of("ci"))))).status == 200


async def test_the_first_token_ends_what_the_uid_let_in(tmp_path: Path) -> None:
    """With a first token, what the service's own user has open over TCP ends, and on the Unix socket it goes on."""
    async with serving(tmp_path) as site, lines(site, 2) as (over_tcp, slow):
        await web.UnixSite(site.runner, str(tmp_path / "s")).start()
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        on_socket = Line(site, reader, writer)
        try:
            for line, host in ((over_tcp, "Host: localhost:PORT"), (on_socket, "Host: localhost")):
                await line.follow(looking("/api/statuses/events", host=host))
            sent = request("POST", "/api/jobs", body=b'{"command":"true"}')
            slow.send(sent[:-4])
            await until(lambda: len(site.app[CONNECTIONS]) == 3)
            await asyncio.sleep(0.02)  # until its head is handled; if that takes longer, the answer is the same
            site.app[AUTHENTICATOR].reload(auth(KEPT))
            await over_tcp.ended()
            assert (await slow.ask(sent[-4:])).short == "401 token-needed"
            assert await site.store.jobs(range(1, 9)) == []
            assert on_socket.is_open()
            await running_job(site)
            async with asyncio.timeout(END_TIMEOUT):
                assert b"event: status" in await reader.readuntil(b"event: status")
        finally:
            writer.close()


async def test_an_expiry_is_noticed_after_the_clock_was_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The timer does not rely on the clock that tokens expire by: it looks again and again."""
    monkeypatch.setattr("shellrunner.web.http.revocation._MAX_DELAY", 0.05)
    async with guarded(tmp_path, table("ci", expires="2100-01-01T00:00:00Z")) as site, lines(site, 1) as (stream,):
        await stream.follow(looking("/api/statuses/events", bearer(secret_of("ci"))))
        site.app[AUTHENTICATOR]._clock = lambda: datetime(2101, 1, 1, tzinfo=UTC)
        await stream.ended()


async def test_nothing_is_remembered_of_what_has_ended(tmp_path: Path) -> None:
    """A connection that was closed by its client is forgotten, whatever it did."""
    async with guarded(tmp_path) as site:
        async with lines(site, 2) as (stream, idle):
            await stream.follow(looking("/api/statuses/events", bearer(secret_of("ci"))))
            await idle.ask(looking("/api", bearer(secret_of("ci"))))
            assert len(site.app[REVOCATIONS]) == 2
        await until(lambda: len(site.app[REVOCATIONS]) == 0)
        assert json.loads((await site.get("/api", headers=_header("ci"))).body)
        await until(lambda: len(site.app[REVOCATIONS]) == 0)


def _header(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret_of(name)}"}
