"""Sends attacks as raw bytes, and checks what they caused."""

import asyncio
import itertools
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from shellrunner.config.token_hash import create_secret, hash_secret
from shellrunner.web.http.problems import SECURITY_HEADERS
from tests.support.selected_service import new_service
from tests.support.service import Service
from tests.support.waiting import WAIT_TIMEOUT, until

JOB = b'{"command":"touch canary"}'
EACH_SCOPE = {scopes: create_secret() for scopes in ("read", "run", "admin", "read run", "read run admin")}
FULL_TOKEN = EACH_SCOPE["read run admin"]
# Each a place of its own, for what is counted by places.
CLIENT_ADDRESSES = (
    f"127.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}" for number in itertools.count(1 << 16 | 1)
)
PROBE = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def request(
    verb: str = "POST",
    target: str = "/api/jobs",
    *headers: str,
    version: str = "HTTP/1.1",
    host: str | None = "Host: localhost:PORT",
    kind: str | None = "Content-Type: application/json",
    body: bytes = JOB,
    length: str | None = None,
) -> bytes:
    """Return a request that starts a job, except for the given parts. `PORT` becomes the service's.

    `host`, `kind` and `length` are whole headers (`length`: those that say how long the body is), None: not sent.
    """
    if length is None and body:
        length = f"Content-Length: {len(body)}"
    lines = (f"{verb} {target} {version}", host, kind if body else None, length or None, *headers)
    return "\r\n".join([*filter(None, lines), "", ""]).encode() + body


def looking(target: str = "/api/jobs", *headers: str, verb: str = "GET", **more: Any) -> bytes:
    """Return a request without a body."""
    return request(verb, target, *headers, **{"body": b"", **more})


def bearer(token: str) -> str:
    """Return the header with a token."""
    return f"Authorization: Bearer {token}"


def rows(table: Mapping[str, Mapping[str, bytes]]) -> list[Any]:
    """Return a table of attacks as test parameters: the expected response, then by name what is sent."""
    return [
        pytest.param(sent, answer, id=name) for answer, attacks in table.items() for name, sent in attacks.items()
    ]


@dataclass(frozen=True)
class Reply:
    """A response."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        """Each value of a header."""
        return [value for given, value in self.headers if given.lower() == name.lower()]

    def one(self, name: str) -> str:
        """Return the value of a header that occurs once."""
        (value,) = self.all(name)
        return value

    @property
    def problem(self) -> str:
        """The code of the problem, if it is one."""
        if self.all("Content-Type") != ["application/problem+json; charset=utf-8"] or not self.body:
            return ""
        return str(json.loads(self.body)["type"]).removeprefix("/problems/")

    @property
    def short(self) -> str:
        """Its status and problem."""
        return f"{self.status} {self.problem}".strip()

    def check(self, *, guests: bool = False) -> "Reply":
        """Check that it has what every response has, and nothing that helps an attacker; return it."""
        for name, value in SECURITY_HEADERS.items():
            assert self.all(name) == [value], (name, self)
        text = f"{self.headers} {self.body if self.status >= 400 else b''!r}".lower()
        assert not [word for word in ("aiohttp", "python", "traceback", "llhttp") if word in text], self
        assert guests or "access-control-" not in text, self
        assert len(self.all("Content-Type")) <= 1
        assert not (self.all("Transfer-Encoding") and self.all("Content-Length"))
        if self.status >= 400:
            assert self.all("Content-Type") == ["application/problem+json; charset=utf-8"], self
            assert self.all("Cache-Control") == ["no-store"], self
        return self


@dataclass
class Outcome:
    """The responses, and the address and port of the client."""

    replies: list[Reply] = field(default_factory=list)
    source: str = ""

    @property
    def only(self) -> Reply:
        """The one answer."""
        (reply,) = self.replies
        return reply


async def read_reply(reader: asyncio.StreamReader, *, bodiless: bool = False) -> Reply | None:
    """Return the next response of a connection, parsed by RFC 9112; None if the connection has ended."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except ConnectionError:
        return None
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    start, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    version, status, _ = start.split(" ", 2)
    assert version in ("HTTP/1.1", "HTTP/1.0"), start
    if status == "100":
        return await read_reply(reader, bodiless=bodiless)
    reply = Reply(
        int(status), [(name, value.strip()) for name, _, value in (each.partition(":") for each in lines)], b""
    )
    if bodiless or reply.status in (204, 304):
        return reply
    return Reply(reply.status, reply.headers, await _read_body(reader, reply))


async def _read_body(reader: asyncio.StreamReader, reply: Reply) -> bytes:
    if reply.all("Content-Length"):
        return await reader.readexactly(int(reply.one("Content-Length")))
    if not reply.all("Transfer-Encoding"):
        return await reader.read()
    assert reply.one("Transfer-Encoding") == "chunked"
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    assert await reader.readuntil(b"\r\n") == b"\r\n"
    return body


class Target:
    """A service under attack, and whether it has started anything."""

    def __init__(self, service: Service, canary: Path, *own: str) -> None:
        """`canary` appears when an attack succeeds; `own` are the headers that authenticate its owner."""
        self.service, self.canary, self.own = service, canary, own
        self.port = int(service.url.rpartition(":")[2])
        self.has_guests = "SERVER__CORS_ORIGINS" in service.settings

    def filled(self, sent: bytes) -> bytes:
        """Return the bytes that are sent for these."""
        return sent.replace(b"PORT", str(self.port).encode())

    async def send(self, sent: bytes, near: str = "127.0.0.1") -> Outcome:
        """Send these bytes, then a probe; return each response but the one to the probe.

        So what an attack has hidden behind its first request is seen, too. `near` is the address it comes from.
        """
        async with asyncio.timeout(WAIT_TIMEOUT):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(near, 0))
            address, port = writer.get_extra_info("sockname")
            try:
                writer.write(self.filled(sent))
                replies = [await read_reply(reader, bodiless=sent.startswith(b"HEAD "))]
                writer.write(PROBE)
                while replies[-1] is not None:
                    replies.append(await read_reply(reader))
            finally:
                writer.close()
        checked = [reply.check(guests=self.has_guests) for reply in replies if reply is not None]
        is_probed = len(checked) > 1 and checked[-1].status == 200 and checked[-1].body == b"ok\n"
        return Outcome(checked[:-1] if is_probed else checked, f"{address}:{port}")

    async def ask(self, sent: bytes) -> Reply:
        """Send these bytes, to which there is one response."""
        return (await self.send(sent)).only

    async def state(self) -> Any:
        """All that an attack could have changed, as its owner sees it."""
        asked = b"".join(looking(path, *self.own) for path in ("/api/jobs", "/api/results", "/api/queues"))
        replies = (await self.send(asked)).replies
        assert [reply.status for reply in replies] == [200] * 3
        jobs, results, queues = [json.loads(reply.body) for reply in replies]
        for queue in queues["queues"]:
            del queue["oldest"]
        return jobs, results, queues, self.canary.exists()

    def audit(self) -> list[dict[str, Any]]:
        """Return the audit events so far."""
        return [line for line in self.service.log if line.get("logger") == "shellrunner.audit"]

    def is_audited(self, outcome: Outcome) -> bool:
        """Whether the audit log has the rejection and its reason, or the request and its status."""
        here = [line for line in self.audit() if line.get("from") == outcome.source]
        refused = {line["why"] for line in here if line["event"] == "rejected"}
        asked = {line["request"] for line in here if line["event"] == "accepted"}
        answered = {
            line["status"] for line in self.audit() if line["event"] == "response" and line["request"] in asked
        }
        last = outcome.replies[-1]
        return last.problem in refused or last.status in answered

    async def start(self) -> int:
        """Start a job as its owner does; return its id once it is done."""
        reply = await self.ask(request("POST", "/api/jobs", *self.own))
        assert reply.status == 202, reply
        job = json.loads(reply.body)["job_id"]

        async def is_done() -> bool:
            return bool((await self.ask(looking(f"/api/statuses/{job}", *self.own))).status == 303)

        await until(is_done)
        return int(job)

    async def arm(self) -> "Target":
        """Check that the request on which all attacks are based does start its command; delete it again."""
        job = await self.start()
        self.canary.unlink()
        await self.ask(looking(f"/api/jobs/{job}", *self.own, verb="DELETE"))
        jobs, *_, canary = await self.state()
        assert (jobs["jobs"], canary) == ([], False)
        return self


@asynccontextmanager
async def serving(directory: Path, *, tokens: bool = False, **settings: Any) -> AsyncIterator[Target]:
    """Yield a new service that was checked to start what it should."""
    async with running(directory, tokens=tokens, **settings) as target:
        yield await target.arm()


@asynccontextmanager
async def running(directory: Path, *, tokens: bool = False, **settings: Any) -> AsyncIterator[Target]:
    """Yield a new service."""
    settings = {"JOBS__CWD": directory, "AUDIT__REFUSALS_PER_MINUTE": 0, **settings}
    if tokens:
        settings["AUTH__TOKENS"] = json.dumps(
            [
                {"name": scopes.replace(" ", "-"), "hash": hash_secret(token), "scopes": scopes.split()}
                for scopes, token in EACH_SCOPE.items()
            ]
        )
    service = new_service(directory / "state", **settings)
    if "SERVER__LISTEN" in settings:
        service.program = [sys.executable, "-m", "shellrunner", "serve"]  # without a port of its own
    try:
        await service.start()
        yield Target(service, directory / "canary", *([bearer(FULL_TOKEN)] if tokens else []))
    finally:
        await service.clear_away()


async def check_held(target: Target, sent: bytes, answer: str) -> Outcome:
    """Check the response to these bytes, and that they changed nothing; each time from another address."""
    before = await target.state()
    outcome = await target.send(sent, next(CLIENT_ADDRESSES))
    assert [reply.short for reply in outcome.replies] == [answer]
    assert await target.state() == before
    return outcome


async def check_audited(target: Target, outcome: Outcome) -> None:
    """Check that the audit log has it."""
    await until(lambda: target.is_audited(outcome), 5, f"the audit log has what {outcome.source} did")
