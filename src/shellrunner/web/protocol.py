"""What aiohttp answers before any handler is reached, in our words: requests that are no HTTP, odd expectations.

`Runner` stands in for `web.AppRunner`. Must not know any resource.
"""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import http_exceptions, web
from aiohttp.web_protocol import RequestHandler

from shellrunner.web import guard, problems

log = logging.getLogger("shellrunner.web")

# What a parser says before it quotes what came, which may be a token or part of a body.
_UNQUOTED = re.compile(r"[^:'\"]*")


class _Protocol(RequestHandler):
    __slots__ = ("at_parting",)

    def __init__(self, *args: Any, **kw: Any) -> None:
        super().__init__(*args, **kw)
        self.at_parting: Callable[[], None] | None = None

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if self.at_parting is not None:
            self.at_parting()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if isinstance(exc, ConnectionError):
            raise exc  # the client has gone: no error, and nobody to tell
        answer = _refusal(exc) if status < 500 else problems.internal(exc or RuntimeError(message))
        return _hardened(answer)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        # What is left of a body that cannot be read: its client was told, or asked for nothing that needs it.
        if not isinstance(kw.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **kw)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(resp, web.HTTPException):  # raised before the gate: `Expect` with something unknown
            resp = _hardened(problems.foreign(resp, request.method, request.path))
        return await super().finish_response(request, resp, start_time)


class _Server(web.Server):
    def __call__(self) -> RequestHandler:
        return _Protocol(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Runs the app so that every answer is one of ours."""

    async def _make_server(self) -> web.Server:
        made: Any = await super()._make_server()
        return _Server(made.request_handler, request_factory=made.request_factory, loop=made._loop, **made._kwargs)  # noqa: SLF001  aiohttp has no public way to say which protocol it should speak


@contextmanager
def at_parting(request: web.Request, then: Callable[[], None]) -> Iterator[None]:
    """Have this called if the client goes before the block is left.

    Raises:
        ConnectionError: it has gone.
    """
    if request.transport is None:
        raise ConnectionResetError("the client has gone")
    connection = request.protocol
    if isinstance(connection, _Protocol):
        connection.at_parting = then
    try:
        yield
    finally:
        if isinstance(connection, _Protocol):
            connection.at_parting = None


def _refusal(error: BaseException | None) -> web.Response:
    words = _words(error)
    if "'Host' header" in words:  # missing or doubled
        return problems.of(guard.wrong_host())
    if isinstance(error, http_exceptions.LineTooLong) or "Too many headers" in words:
        return problems.problem("headers-too-large", "the request line or a header is too long, or they are too many")
    if isinstance(error, http_exceptions.ContentEncodingError):  # one that aiohttp cannot unpack
        return problems.of(guard.packed())
    unquoted = _UNQUOTED.match(words)
    log.debug("not HTTP: %s", unquoted[0].strip() if unquoted else type(error).__name__)
    if words.startswith("Invalid char in url"):
        return problems.problem("bad-request", "the target has a character that must be percent-encoded (RFC 3986)")
    return problems.problem("bad-request", "the request is not HTTP as RFC 9112 has it")


def _words(error: BaseException | None) -> str:
    """What is wrong, without most of what came; llhttp shows that on lines of its own."""
    return str(getattr(error, "message", error)).partition("\n")[0]


def _hardened(answer: web.Response) -> web.Response:
    answer.headers.update(guard.HARDENED)
    answer.force_close()
    return answer
