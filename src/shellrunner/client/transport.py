"""Requests to one server: each is answered, refused in words, or tried again while that may help.

Owned by a `Client`. Must not know what is asked for.
"""

import asyncio
import contextlib
import errno
import json
import os
import random
import ssl
from collections.abc import AsyncIterator, Callable, Container, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Self

import aiohttp

from shellrunner.client.address import ServerAddress
from shellrunner.client.client_error import FOREIGN, INTERRUPTED, UNREACHABLE, UNTRUSTED, ClientError, refusal

SILENCE: Final = 45.0  # seconds without a byte after which a connection is given up; a stream says something every 15
_CONNECT: Final = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds

Notice = Callable[[ClientError | None], None]


class Transport:
    """One server and how to speak with it; `notice` is told why a request comes again, and None once it succeeds."""

    def __init__(
        self,
        place: ServerAddress,
        *,
        token: str | None,
        patience: float,
        notice: Notice | None,
        tls: ssl.SSLContext | None,
    ) -> None:
        self.place, self.patience = place, patience
        self._token, self._notice, self._tls = token, notice, tls
        self._was_there = self._in_trouble = False
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        """Connections are made when they are needed."""
        who = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        self._session = aiohttp.ClientSession(
            connector=self._connector(),
            headers={"User-Agent": "shellrunner", **who},
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[self._tracing()],
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close them all."""
        await self._session.close()

    async def ask(
        self,
        verb: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        idempotent: bool = True,
        silence: float = SILENCE,
    ) -> Any:
        """Return the answer's document (None: it has none).

        With `idempotent`, which is only for what may be asked twice, a request that was lost is sent again.

        Raises:
            ClientError: it was refused, or there was no answer.
        """
        tries = Tries(self)
        while True:
            try:
                async with self.answer(verb, path, body=body, headers=headers, silence=silence) as response:
                    content = await response.read()
                    return json.loads(content) if content else None
            except ClientError as error:
                if not idempotent:
                    raise
                await tries.wait_or_raise(error)

    async def measure(self, path: str) -> int:
        """How many bytes lie there.

        Raises:
            ClientError: as for `ask`.
        """
        tries, verb = Tries(self), "HEAD"
        while True:
            try:
                async with self.answer(verb, path) as response:
                    return response.content_length or 0
            except ClientError as error:
                if verb == "HEAD" and error.kind == FOREIGN:  # it has no body to say why; GET's has
                    verb = "GET"
                else:
                    await tries.wait_or_raise(error)

    @asynccontextmanager
    async def answer(
        self,
        verb: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        silence: float = SILENCE,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request and its answer, to be read within.

        Raises:
            ClientError: it was refused, there was no answer, or it broke off while it was read.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=silence)
        try:
            async with self._session.request(
                verb, self.place.base + path, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                if response.status >= 400:
                    raise refusal(response.status, response.reason or "", await _document(response), str(self.place))
                self._well()
                yield response
        except (aiohttp.ClientError, TimeoutError, ConnectionError, ValueError) as error:
            raise self._trouble(error) from error

    def trying_again(self, error: ClientError) -> None:
        """Say that the server is not there just now."""
        self._in_trouble = True
        if self._notice:
            self._notice(error)

    def is_hopeless(self, error: ClientError) -> bool:
        """Whether no other try would help. One that was never there is not waited for."""
        return not error.passes or (error.kind == UNREACHABLE and not self._was_there)

    def _connector(self) -> aiohttp.BaseConnector:
        if self.place.socket:
            return aiohttp.UnixConnector(self.place.socket)
        return aiohttp.TCPConnector(ssl=True if self._tls is None else self._tls)

    def _tracing(self) -> aiohttp.TraceConfig:
        # aiohttp asks a second time by itself where a connection breaks, and tells only of the second.
        tracing = aiohttp.TraceConfig()
        tracing.on_connection_create_end.append(self._connected)
        return tracing

    async def _connected(self, *_: object) -> None:
        self._was_there = True

    def _well(self) -> None:
        if self._in_trouble and self._notice:
            self._notice(None)
        self._in_trouble = False

    def _trouble(self, error: Exception) -> ClientError:
        place = self.place
        match error:
            case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
                return ClientError(f"cannot trust {place}: {_reason(error)}", kind=UNTRUSTED)
            case aiohttp.ClientConnectorError() if error.os_error.errno == errno.ECONNRESET:
                self._was_there = True  # and died just now
            case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
                return ClientError(f"cannot reach {place}: {_reason(error)}", kind=UNREACHABLE)
            case aiohttp.ClientResponseError() | aiohttp.InvalidURL() | ValueError():
                return ClientError(f"{place} does not speak as shellrunner does", kind=FOREIGN)
        return ClientError(f"the connection to {place} broke: {_reason(error)}", kind=INTERRUPTED)


class Tries:
    """The tries of one request: pauses that grow, until patience is at an end."""

    def __init__(self, connection: Transport, bears: Container[str] = ()) -> None:
        """`bears` are further kinds of error that pass for this request."""
        self._connection, self._bears = connection, bears
        self._deadline: float | None = None
        self._pause = _FIRST_PAUSE

    def succeeded(self) -> None:
        """Begin anew: what comes next is another trouble."""
        self._deadline, self._pause = None, _FIRST_PAUSE

    async def wait_or_raise(self, error: ClientError) -> None:
        """Wait a little before the next try.

        Raises:
            ClientError: `error` itself, if it does not pass by itself, or has lasted too long.
        """
        now = asyncio.get_running_loop().time()
        self._deadline = self._deadline or now + self._connection.patience
        hopeless = error.kind not in self._bears and self._connection.is_hopeless(error)
        if hopeless or now >= self._deadline:
            raise error
        self._connection.trying_again(error)
        await self.pause()

    async def pause(self) -> None:
        """Wait, a little longer each time; not all who lost the same server come back at once."""
        await asyncio.sleep(self._pause * random.uniform(0.5, 1))  # noqa: S311  no secret
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)


async def _document(response: aiohttp.ClientResponse) -> object:
    with contextlib.suppress(ValueError):
        return json.loads(await response.read())
    return None


def _reason(error: BaseException) -> str:
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return str(getattr(error.certificate_error, "verify_message", error.certificate_error))
        case aiohttp.ClientConnectorError():
            return _words(error.os_error)
        case aiohttp.ServerDisconnectedError():
            return "it was closed before the answer"
        case TimeoutError():
            return "no answer in time"
        case OSError():
            return _words(error)
    return str(error) or type(error).__name__


def _words(error: OSError) -> str:
    # asyncio puts a sentence of its own where the system's belongs.
    if error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error) or type(error).__name__
