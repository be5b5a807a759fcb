"""The audit log of requests: who asked for what, from where, and with what result.

Used by the security middleware for every request that would change something, and for every one that it rejects, and
by the handlers of changes, which call `accept` when a request is parsed and before anything is done. Must not know
where the lines are written.

The lines of a change: `accepted`, then `response`; of anything else: `rejected`, or `read` if that is configured.
"""

import asyncio
import itertools
import secrets
import socket
from collections.abc import Mapping
from typing import Any, Final, Protocol

from aiohttp import web

from shellrunner import peer_credentials
from shellrunner.access import Identity
from shellrunner.access.throttle import source_key
from shellrunner.config import AuditSettings
from shellrunner.errors import AuditUnavailable
from shellrunner.model import JobSpec
from shellrunner.web.http.problems import PROBLEM_CODE
from shellrunner.web.http.server_protocol import connection_identity
from shellrunner.web.security import audit_details
from shellrunner.web.security.origin import OriginPolicy
from shellrunner.web.security.refusal_limit import RefusalLimit

_MAX_SHOWN: Final = 2000  # characters of a path
_SUMMARY_INTERVAL: Final = 60.0  # seconds after which the number of lines that were not written is


class AuditSink(Protocol):
    """Writes the lines."""

    async def write(self, event: str, details: Mapping[str, Any]) -> bool:
        """Write a line so that it stays; return False if that is not possible in a short time."""

    def post(self, event: str, details: Mapping[str, Any]) -> bool:
        """Write a line soon, and try again if it cannot be now; return False if too many are waiting already."""


class Audit:
    """The audit log."""

    def __init__(self, sink: AuditSink, settings: AuditSettings) -> None:
        self.settings = settings
        self._sink = sink
        self._process = secrets.token_hex(4)  # numbers begin again in each process, and a file has many of them
        self._numbers = itertools.count(1)
        self._limit = RefusalLimit(settings.refusals_per_minute)
        self._summary: asyncio.TimerHandle | None = None

    @property
    def suppressed(self) -> int:
        """How many lines were not written, since the start."""
        return self._limit.total

    def begin(self, request: web.Request, identity: Identity, origins: OriginPolicy) -> None:
        """Prepare the lines of a request that was let in."""
        number = f"{self._process}-{next(self._numbers)}"
        peer = _peer(request.transport, origins.client_endpoint(request))
        request[_ENTRY] = _Entry(
            self, number, {"request": number, "who": identity.name, **peer, **_request_line(request)}
        )

    async def log_read(self, request: web.Request) -> None:
        """Log that a client reads, before it does; only after the names of the parameters were checked.

        Raises:
            AuditUnavailable: it could not be written in time.
        """
        await request[_ENTRY].accept("read", audit_details.of_query(request.query))

    def log_result(self, request: web.Request, response: web.Response | web.StreamResponse | None) -> None:
        """Log the response to a request that was accepted; None: there was nobody to send it to."""
        entry = request.get(_ENTRY)
        if entry is None or not entry.is_accepted:
            return
        status = None if response is None else response.status
        why = "unanswered" if response is None else response.get(PROBLEM_CODE)
        if entry.event == "read" and (status or 0) < 400:
            return
        result = {"request": entry.number, "status": status, **({"why": why} if why else {}), **entry.details}
        if not self._sink.post("response", result):
            self._count("", "response")

    def log_rejection(self, request: web.Request, name: str | None, origins: OriginPolicy, code: str) -> None:
        """Log that a request was rejected and why; `name` is that of its identity, as far as it is known."""
        entry = request.get(_ENTRY)
        number = {} if entry is None else {"request": entry.number}
        who = {} if name is None else {"who": name}
        peer = _peer(request.transport, origins.client_endpoint(request))
        details = {
            **number,
            **who,
            **peer,
            **_request_line(request),
            "why": code,
            **({} if entry is None else entry.details),
        }
        source = name or _source(origins.client_address(request), peer)
        if entry is not None and code == AuditUnavailable.code:
            # Never suppressed: `accepted` may have been written all the same, and nothing was done.
            if not self._sink.post("rejected", details):
                self._count(source, code)
        else:
            self._reject(source, code, details)

    def log_refused_connection(self, transport: asyncio.BaseTransport | None, code: str, detail: str = "") -> None:
        """Log that a connection, or what came over it, was refused before there was a request."""
        address, endpoint = _address(transport)
        peer = _peer(transport, endpoint)
        self._reject(_source(address, peer), code, {**peer, "why": code, **({"detail": detail} if detail else {})})

    def close(self) -> None:
        """Write how many lines were not written."""
        if self._summary is not None:
            self._summary.cancel()
            self._summarize()

    def _reject(self, source: str, code: str, details: Mapping[str, Any]) -> None:
        if not (self._limit.admits(source) and self._sink.post("rejected", details)):
            self._count(source, code)

    def _count(self, source: str, reason: str) -> None:
        self._limit.count(source, reason)
        if self._summary is None:
            self._summary = asyncio.get_running_loop().call_later(_SUMMARY_INTERVAL, self._summarize)

    def _summarize(self) -> None:
        self._summary = None
        for source, reasons in self._limit.take_counts():
            by = {"by": source} if source else {}
            if not self._sink.post("lines suppressed", {**by, "lines": reasons.total(), "why": dict(reasons)}):
                self._summary = asyncio.get_running_loop().call_later(_SUMMARY_INTERVAL, self._summarize)
                break

    async def write(self, event: str, details: Mapping[str, Any]) -> None:
        """Write a line that must be there before what it says is done.

        Raises:
            AuditUnavailable: it could not be written in time.
        """
        if not await self._sink.write(event, details):
            raise AuditUnavailable


class _Entry:
    """The lines of one request."""

    __slots__ = ("_audit", "_request", "details", "event", "number")

    def __init__(self, audit: Audit, number: str, request: Mapping[str, Any]) -> None:
        self._audit, self._request = audit, request
        self.number = number
        self.event = ""  # of the line that is written
        self.details: dict[str, Any] = {}  # of the response

    @property
    def is_accepted(self) -> bool:
        return bool(self.event)

    @property
    def settings(self) -> AuditSettings:
        return self._audit.settings

    async def accept(self, event: str, details: Mapping[str, Any]) -> None:
        await self._audit.write(event, {**self._request, **details})
        self.event = event


AUDIT: Final = web.AppKey("audit", Audit)
_ENTRY: Final = web.RequestKey("audit entry", _Entry)


async def accept(request: web.Request, **details: Any) -> None:
    """Log what a request asks for, which is parsed and not done yet: every handler of a change calls this first.

    Never values of env, stdin or a token.

    Raises:
        AuditUnavailable: it could not be written in time, so nothing may be done.
        TokenNeeded: nothing may be done, because the identity was revoked while the request was parsed, or now.
    """
    await request[_ENTRY].accept("accepted", details)
    connection_identity(request).raise_if_revoked()


async def accept_job(request: web.Request, spec: JobSpec, run_as: str | None, **details: Any) -> None:
    """Log that a job is asked for, as `accept` does.

    Raises:
        AuditUnavailable: as above.
    """
    limit = request[_ENTRY].settings.command_characters
    await accept(request, **details, **audit_details.of_job(spec, run_as, limit))


def add_details(request: web.Request, **details: Any) -> None:
    """Add details to the line of the response, such as the job's id."""
    request[_ENTRY].details |= details


def is_missing(request: web.Request) -> bool:
    """Return whether a request was let in that would change something, and has no line yet."""
    entry = request.get(_ENTRY)
    return entry is not None and not entry.is_accepted


def _request_line(request: web.Request) -> dict[str, str]:
    # Without the query: what is not known to be harmless is not written.
    return {"verb": request.method, "path": request.path[:_MAX_SHOWN]}


def _peer(transport: asyncio.BaseTransport | None, endpoint: str) -> dict[str, Any]:
    """Return the client's address; over a Unix socket the process that has connected it."""
    connection = None if transport is None else transport.get_extra_info("socket")
    if connection is None or connection.family != socket.AF_UNIX:
        return {"from": endpoint}
    try:
        process = peer_credentials.unix_peer(connection)
    except OSError:  # closed meanwhile
        return {"from": endpoint}
    return {"from": endpoint, "uid": process.uid, "pid": process.pid}


def _address(transport: asyncio.BaseTransport | None) -> tuple[str, str]:
    """Return the address of the other end, without and with its port."""
    peer = None if transport is None else transport.get_extra_info("peername")
    if not isinstance(peer, tuple):
        return "", "unix"
    return peer[0], f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"


def _source(address: str, peer: Mapping[str, Any]) -> str:
    """Return what refusals are counted by: a network address, or a local user."""
    return f"uid:{peer['uid']}" if "uid" in peer else source_key(address)
