"""The audit log: what it contains, what it never contains, and that nothing is done if it cannot be written."""

import asyncio
import contextlib
import itertools
import json
import os
import select
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from tests.support.attack import (
    EACH_SCOPE,
    FULL_TOKEN,
    Target,
    bearer,
    check_held,
    looking,
    request,
    running,
    serving,
)
from tests.support.prefork import pipe_transport
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="session")

SECRET = "geheim-42"
NUMBERS = itertools.count(1)


async def lines_of(target: Target, source: str, events: int) -> list[dict[str, Any]]:
    """Return the audit events of requests from this address and of their responses, once there are so many."""

    def lines() -> list[dict[str, Any]]:
        here = [line for line in target.audit() if line.get("from") == source]
        numbers = {line["request"] for line in here if line["event"] == "accepted"}
        return here + [line for line in target.audit() if line["event"] == "response" and line["request"] in numbers]

    await until(lambda: len(lines()) == events, 5, f"{events} lines of {source}")
    return lines()


async def test_a_change_is_logged_in_two_events(guarded: Target) -> None:
    """A change is logged in two events: who, from where and what; then the result, with the command."""
    body = json.dumps({"command": "true", "env": {"A": SECRET}, "stdin": SECRET}).encode()
    outcome = await guarded.send(request("POST", "/api/jobs", bearer(EACH_SCOPE["run"]), body=body))
    asked, answered = await lines_of(guarded, outcome.source, 2)
    what = [asked[name] for name in ("event", "who", "verb", "path", "command")]
    assert what == ["accepted", "token:run", "POST", "/api/jobs", "true"]
    assert (answered["event"], answered["status"]) == ("response", 202)
    assert answered["job"] == json.loads(outcome.only.body)["job_id"]


async def test_a_rejection_is_logged_in_one_event(guarded: Target) -> None:
    """A rejection is logged in one event: who, from where, what, and why."""
    outcome = await guarded.send(looking("/api/jobs?q=x", bearer(EACH_SCOPE["run"])))
    (line,) = await lines_of(guarded, outcome.source, 1)
    recorded = {name: line[name] for name in ("event", "who", "verb", "path", "why")}
    what = {"verb": "GET", "path": "/api/jobs", "why": "insufficient-scope"}
    assert recorded == {"event": "rejected", "who": "token:run", **what}


async def test_an_unknown_client_has_no_name(guarded: Target) -> None:
    """A rejected request with a wrong token is logged without a name."""
    outcome = await guarded.send(looking("/api/jobs", bearer("wrong")))
    (line,) = await lines_of(guarded, outcome.source, 1)
    assert line["why"] == "token-needed"
    assert "who" not in line


async def test_reading_is_not_logged(guarded: Target) -> None:
    """Reading with permission is not logged."""
    looked = await guarded.send(looking("/api/jobs", bearer(EACH_SCOPE["read"])))
    marked = await guarded.send(request())
    await lines_of(guarded, marked.source, 1)
    assert not [line for line in guarded.audit() if line.get("from") == looked.source]


async def test_the_log_has_no_secrets(guarded: Target) -> None:
    """No token, valid or wrong, no session, env value or stdin is in any line of the log."""
    body = json.dumps({"command": "true", "env": {"A": SECRET}, "stdin": SECRET}).encode()
    await guarded.ask(request("POST", "/api/jobs", bearer(FULL_TOKEN), body=body))
    await guarded.ask(request("POST", "/api/jobs", bearer(FULL_TOKEN), body=body + b"}"))
    await guarded.ask(request("POST", "/api/jobs", bearer(SECRET)))
    await guarded.ask(looking(f"/api/jobs?access_token={SECRET}"))
    await guarded.ask(looking("/api/jobs", f"Cookie: shellrunner-PORT={SECRET}"))
    await guarded.ask(looking("/api", "Authorization : x" + SECRET))
    marked = await guarded.send(request())
    await lines_of(guarded, marked.source, 1)
    log = json.dumps(guarded.service.log)
    assert [word for word in (SECRET, *EACH_SCOPE.values()) if word in log] == []


FORGED = quote('\n{"event":"accepted","logger":"shellrunner.audit","who":"uid:0"}\n')


@pytest.mark.parametrize(
    "target", [f"/api/x{FORGED}", f"/{FORGED}", f"/api/jobs?{FORGED}=1", f"/api/jobs?q={FORGED}"]
)
async def test_lines_cannot_be_forged(alone: Target, target: str) -> None:
    """No part of a request can start a new line of the log."""
    await alone.ask(request("POST", target))
    marked = await alone.send(request("POST", target, host="Host: evil.test"))
    await lines_of(alone, marked.source, 1)
    assert not [line for line in alone.service.log if line["event"] == "not JSON"]
    assert not [line for line in alone.audit() if line["event"] == "accepted" and "request" not in line]


INJECTED = "x\r\nSet-Cookie: a=b\r\n\r\n<script>"


async def test_headers_cannot_be_forged(guarded: Target) -> None:
    """A label, a name, a filter or a key with a line end in it never becomes a header of a response."""
    quoted = quote(INJECTED)
    body = json.dumps({"command": "true", "labels": {"k": INJECTED}}).encode()
    jobs = [await guarded.ask(request("POST", "/api/jobs", *guarded.own, body=body)) for _ in range(2)]
    job = json.loads(jobs[0].body)["job_id"]
    for path, status in (
        (f"/api/jobs?label=k:{quoted}&limit=1", 200),  # its `Link` repeats the filter
        (f"/api/jobs?q={quoted}", 200),
        (f"/api/jobs/{quoted}", 400),
        (f"/api/queues/{quoted}/pause", 400),
        (f"/api/statuses/{job}/events?last_event_id={quoted}", 400),
        (f"/api/jobs?{quoted}=1", 400),
    ):
        reply = await guarded.ask(looking(path, *guarded.own))
        assert reply.status == status, reply
        assert not reply.all("Set-Cookie")
        assert not [name for name, value in reply.headers if "script" in value.lower() and "%3c" not in value.lower()]


# Behind proxies


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def proxied(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    """Yield a service that trusts 127.0.0.1 as a proxy."""
    async with running(tmp_path_factory.mktemp("proxied"), tokens=True, SERVER__PROXIES='["127.0.0.1"]') as target:
        yield target


STRANGER, FORGERY = "203.0.113.9", "198.51.100.1"


@pytest.mark.parametrize(
    ("forwarded", "near", "source"),
    [
        (STRANGER, "127.0.0.1", STRANGER),
        (f"{FORGERY}, {STRANGER}", "127.0.0.1", STRANGER),
        (f"{FORGERY}\r\nX-Forwarded-For: {STRANGER}", "127.0.0.1", STRANGER),
        (f"{FORGERY}, {STRANGER}, 127.0.0.1", "127.0.0.1", STRANGER),
        (f"{FORGERY}, ::ffff:{STRANGER}", "127.0.0.1", STRANGER),
        (f"{FORGERY}, unknown", "127.0.0.1", ""),
        (f"{FORGERY}, unix:", "127.0.0.1", ""),
        (f"{FORGERY}, {STRANGER}:4711", "127.0.0.1", ""),
        (f"{FORGERY},", "127.0.0.1", ""),
        (FORGERY, "127.0.0.2", ""),
    ],
)
async def test_a_proxy_is_trusted_and_its_client_is_not(
    proxied: Target, forwarded: str, near: str, source: str
) -> None:
    """The client is the last address that a trusted proxy reports; if that is invalid, the proxy itself ("")."""
    path = f"/api/{next(NUMBERS)}"
    outcome = await proxied.send(looking(path, f"X-Forwarded-For: {forwarded}"), near)

    def lines() -> list[dict[str, Any]]:
        return [line for line in proxied.audit() if line.get("path") == path]

    (line,) = await until(lines, 5, "the audit log has it")
    assert line["from"] == (source or outcome.source)


# What never becomes a request

REFUSED_HEADS = {
    "method": (b"FOO / HTTP/1.1\r\nHost: localhost:PORT\r\n\r\n", "bad-request"),
    "version": (b"GET / HTTP/9.9\r\nHost: localhost:PORT\r\n\r\n", "bad-request"),
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32), "bad-request"),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", "wrong-host"),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "wrong-host"),
    "long header": (
        b"GET / HTTP/1.1\r\nHost: localhost:PORT\r\nX: " + b"x" * 60_000 + b"\r\n\r\n",
        "headers-too-large",
    ),
    "control": (b"GET /\x01 HTTP/1.1\r\nHost: localhost:PORT\r\n\r\n", "bad-request"),
    "both lengths": (
        b"POST /api/jobs HTTP/1.1\r\nHost: localhost:PORT\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "bad-request",
    ),
    "expectation": (looking("/api", "Expect: " + SECRET), "expectation-failed"),
    "protocol": (looking("/api", version="HTTP/2.7"), "bad-request"),
}


@pytest.mark.parametrize("name", REFUSED_HEADS)
async def test_a2_what_is_no_request_has_a_line(alone: Target, name: str) -> None:
    """A2: what the parser or the protocol refuses is logged with the client's address and port, and nothing of it."""
    sent, why = REFUSED_HEADS[name]
    outcome = await alone.send(sent)
    (line,) = await lines_of(alone, outcome.source, 1)
    assert (line["event"], line["why"]) == ("rejected", why)
    assert SECRET not in json.dumps(line)


async def test_a2_a_head_without_an_end_has_a_line(alone: Target) -> None:
    """A2: a head that grows beyond the limit ends its connection, with a line."""
    _, writer = await asyncio.open_connection("127.0.0.1", alone.port)
    address, port = writer.get_extra_info("sockname")
    with contextlib.suppress(ConnectionError):
        writer.write(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000)
        await writer.drain()
    (line,) = await lines_of(alone, f"{address}:{port}", 1)
    writer.close()
    assert line["why"] in ("large-head", "headers-too-large")


@pytest.mark.heavy
async def test_a2_thousands_of_refused_requests_are_a_few_lines(tmp_path: Path) -> None:
    """A2: as shipped, a flood of refused requests has few lines and a count; a change beside it has its line.

    Written and counted lines are as many as were refused, of the middleware and of the parser together.
    """
    flood = looking("/api/jobs", host="Host: evil.test") * 100
    garbage, rounds = b"FOO\r\n\r\n", 20
    async with running(tmp_path, AUDIT__REFUSALS_PER_MINUTE=120) as target:
        for _ in range(rounds):
            for sent in (flood, garbage):
                reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
                writer.write(target.filled(sent))
                writer.write_eof()
                await reader.read()
                writer.close()
        await target.start()
        await target.service.stop()
        lines = target.audit()
    written = [line for line in lines if line["event"] == "rejected"]
    counted = [line for line in lines if line["event"] == "lines suppressed"]
    assert len(written) <= 200  # of 2,020: 30 at once, and one more for each 2 s that the test takes
    assert 1 <= len(counted) <= 20
    refused = Counter(line["why"] for line in written)
    for line in counted:
        refused += Counter(line["why"])
    assert refused == {"wrong-host": 100 * rounds, "bad-request": rounds}
    assert [line["command"] for line in lines if line["event"] == "accepted"] == ["touch canary"]


# A log that takes nothing


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def muted(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    """Yield a service of its own, whose log will be blocked."""
    async with serving(tmp_path_factory.mktemp("muted")) as target:
        yield target


@contextlib.contextmanager
def full_log(target: Target) -> Iterator[None]:
    """Replace the service's log by a full pipe that nobody reads."""
    reading = pipe_transport(target.service.process, 2)
    reading.pause_reading()
    pipe = os.open(f"/proc/{target.service.process.pid}/fd/2", os.O_WRONLY | os.O_NONBLOCK)
    try:
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(pipe, b" " * select.PIPE_BUF)
        yield
    finally:
        os.close(pipe)
        reading.resume_reading()


CHANGES = [
    request(),
    looking("/api/jobs/1", verb="DELETE"),
    looking("/api/jobs?confirm=true", verb="DELETE"),
    looking("/api/results/1", verb="DELETE"),
    looking("/api/jobs/1/cancel", verb="POST"),
    looking("/api/queues/pause", verb="POST"),
]


@pytest.mark.heavy
async def test_what_cannot_be_logged_is_not_done(muted: Target) -> None:
    """While the log cannot be written, every change is 503 and not done, and reading goes on."""
    job = await muted.start()
    muted.canary.unlink()
    before = await muted.state()
    with full_log(muted):
        sent = (each.replace(b"s/1", f"s/{job}".encode()) for each in CHANGES)
        for reply in await asyncio.gather(*map(muted.ask, sent)):
            assert reply.short == "503 audit-unavailable"
            assert reply.one("Retry-After") == "1"
        assert await muted.state() == before
        await check_held(muted, request(host="Host: evil.test"), "421 wrong-host")
    await muted.start()
    assert muted.canary.exists()
    muted.canary.unlink()


@pytest.mark.heavy
async def test_a_log_whose_reader_has_gone(muted: Target) -> None:
    """When the log's reader has closed it, nothing is started any more, and the service goes on."""
    pipe_transport(muted.service.process, 2).close()
    await check_held(muted, request(), "503 audit-unavailable")
