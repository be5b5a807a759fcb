"""The security middleware for every request: checks request line, Host, Origin, identity, then query and Accept.

Installed by `make_app`; also turns every error into a problem response. Must not know any resource.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Final

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.typedefs import Middleware

from shellrunner import ascii_text
from shellrunner.access import Identity
from shellrunner.errors import (
    BadParameter,
    NetworkNotAllowed,
    NotThisUser,
    ShellrunnerError,
    TokenNeeded,
    TooManyWrongTokens,
)
from shellrunner.model.filters import FILTERS
from shellrunner.model.names import MAX_BODY_BYTES
from shellrunner.web.app_keys import identity_of
from shellrunner.web.http import bodies, problems
from shellrunner.web.http.accept import accepts
from shellrunner.web.http.problems import SECURITY_HEADERS, HttpProblem
from shellrunner.web.http.request_line import has_one_spelling
from shellrunner.web.http.server_protocol import (
    PassedHeaders,
    connection_identity,
    note_identity,
    passed_headers,
    remember_headers,
)
from shellrunner.web.route import Access, Handler
from shellrunner.web.security import audit as audit_log
from shellrunner.web.security import authentication, ownership, worker_removal
from shellrunner.web.security.audit import Audit
from shellrunner.web.security.loopback import is_localhost
from shellrunner.web.security.origin import OriginPolicy
from shellrunner.web.security.proxy_marks import has_mark

_OPEN: Final = frozenset({Access.PUBLIC, Access.HOST_CHECKED})  # to clients that nobody knows
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_HEADER_BYTES: Final = 1 << 15  # of all headers of a request together
# Pages that another site may link to: they are the same for everybody. Their files it may not load.
_LINKABLE: Final = re.compile(r"/(llms(-full)?\.txt|docs(/|/.*(/|\.html))?)?")
REPEATABLE_PARAMETERS: Final = frozenset(info.parameter for info in FILTERS.values() if info.type.repeatable)


@dataclass(frozen=True, slots=True)
class RoutePolicy:
    """Who may use a route, with which query parameters and bytes of a body; its content type (empty: no body)."""

    access: Access
    parameters: frozenset[str] = frozenset()
    content_type: str = ""
    max_body: int = MAX_BODY_BYTES
    alternative: str = ""  # content type


# Where there is no route: only clients that may know the other paths learn that this one does not exist.
_NO_ROUTE: Final = RoutePolicy(Access.AUTHENTICATED)
_NO_ROUTE_PUBLIC: Final = RoutePolicy(Access.HOST_CHECKED)


class _RequestCheck:
    """One request on its way through the middleware."""

    def __init__(self, request: web.Request, policy: RoutePolicy, origins: OriginPolicy, audit: Audit) -> None:
        self._request, self._policy, self._origins, self._audit = request, policy, origins, audit
        self._is_accepted = False
        is_change = request.method not in _SAFE_METHODS
        self._is_audited = policy.access not in _OPEN and (is_change or audit.settings.reads)

    async def run(self, handler: Handler) -> web.StreamResponse:
        """Check the request and handle it, or build the problem response to whatever goes wrong."""
        try:
            preflight = await self._check()
            self._is_accepted = True
            return preflight or await self._handle(handler)
        except ShellrunnerError as error:
            return self._reject(problems.code_of(error), problems.from_error(error))
        except web.HTTPException as error:
            response = problems.from_http_exception(error, self._request)
            return self._reject(problems.code_of(error), response)
        except web.RequestPayloadError:
            response = problems.problem("bad-request", "the body does not match its Transfer-Encoding or length")
            return self._reject("bad-request", response)
        except (ConnectionError, asyncio.CancelledError):  # the client has disconnected: nobody to respond to
            self._audit.log_result(self._request, None)
            raise
        except Exception as error:  # noqa: BLE001  the border: a bug ends one request, not the service
            return self._unless_started(problems.internal_error(error))

    async def _handle(self, handler: Handler) -> web.StreamResponse:
        response = await handler(self._request)
        if self._is_audited and audit_log.is_missing(self._request):
            raise RuntimeError(f"{handler} has changed something without an audit line")
        return response

    def finish(self, response: web.StreamResponse) -> None:
        """Close the connection if it must not be reused, and log the response."""
        if hdrs.TRANSFER_ENCODING in self._request.headers:
            # aiohttp (3.14.5) takes the last trailer behind a chunked body for a header of the next request.
            response.force_close()
        if self._is_audited:
            self._audit.log_result(self._request, response)

    async def _check(self) -> web.Response | None:
        """Make all checks, in this order; return the response to a preflight request, and None for any other."""
        request, access = self._request, self._policy.access
        passed = passed_headers(request) if access not in _OPEN else None
        if passed is None:
            _check_size(request)
        _check_target(request)
        if passed is None:
            if hdrs.TRANSFER_ENCODING in request.headers:
                _check_framing(request)
            if removal := worker_removal.response_to(request):
                return removal
            self._check_site()
        if access not in _OPEN:
            if request.method == "OPTIONS" and (preflight := self._preflight_response()):
                return preflight
            passed = passed or _remember_headers(request)
            await self._authenticate(is_forwarded=passed.is_forwarded)
        if "?" in request.raw_path and access is not Access.PUBLIC:
            _check_query(request, self._policy)
        _check_accept(request, self._policy)
        if access not in _OPEN:
            if self._is_audited:
                await self._begin_audit()
            connection_identity(request).raise_if_revoked()  # the body, or the audit log, may have taken its time
        return None

    def _check_site(self) -> None:
        request, access = self._request, self._policy.access
        if access is not Access.PUBLIC:
            self._origins.check_host(request)
        if access not in _OPEN or (access is Access.HOST_CHECKED and not _LINKABLE.fullmatch(request.path)):
            self._origins.check_origin(request)

    def _preflight_response(self) -> web.Response | None:
        return self._origins.preflight_response(self._request, _allowed_methods(self._request))

    async def _begin_audit(self) -> None:
        self._audit.begin(self._request, identity_of(self._request), self._origins)
        if self._request.method in _SAFE_METHODS:
            await self._audit.log_read(self._request)

    async def _authenticate(self, *, is_forwarded: bool) -> None:
        request, access = self._request, self._policy.access
        try:
            identity = await self._identify(is_forwarded=is_forwarded)
        except (TokenNeeded, TooManyWrongTokens, NotThisUser, NetworkNotAllowed):
            note_identity(request, None)
            raise
        authentication.authorize(request, identity, access)
        if access in (Access.RUN, Access.RUN_MANY):
            await ownership.check_owner(request, identity, access)

    async def _identify(self, *, is_forwarded: bool) -> Identity:
        request = self._request
        identity = await authentication.authenticate_credentials(request, self._origins, self._policy.access)
        if identity is not None:
            authentication.bind_connection(request, identity)
        if request.method not in _SAFE_METHODS and self._policy is not _NO_ROUTE:
            if identity is None and not request.content.is_eof():
                # Before the body: one from an unknown client is not waited for, and takes no memory.
                early = authentication.authenticate_peer(request, is_forwarded=is_forwarded)
                authentication.bind_connection(request, early)
            # The whole body is received before the kernel is asked again, so that the client is still there then.
            await bodies.preload(request, self._policy.max_body)
        if identity is None:
            identity = authentication.authenticate_peer(request, is_forwarded=is_forwarded)
            authentication.bind_connection(request, identity)
        return identity

    def _reject(self, code: str, response: web.Response) -> web.Response:
        if not self._is_accepted or audit_log.is_missing(self._request):
            name = authentication.name_of(self._request)
            self._audit.log_rejection(self._request, name, self._origins, code)
        return self._unless_started(response)

    def _unless_started(self, response: web.Response) -> web.Response:
        """Return the response, unless another was started: then only an aborted connection shows the failure."""
        if self._request.writer.output_size == 0:
            return response
        if self._request.transport is not None:
            self._request.transport.abort()
        raise ConnectionAbortedError("the request failed after its response had been started")


def add_security_headers(
    origins: OriginPolicy,
) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """Build the signal handler that adds the security headers to every response before it starts, streams too."""

    async def add(request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(SECURITY_HEADERS)
        # It holds for every port of a host, so not for localhost, where other programs listen; never for an address.
        if request.secure and not is_localhost(request.host.rpartition(":")[0] or request.host):
            response.headers["Strict-Transport-Security"] = "max-age=31536000"
        response.headers.extend(origins.cors_headers(request))  # in addition to a `Vary` of the response's own

    return add


def security_middleware(policies: Mapping[Handler, RoutePolicy], origins: OriginPolicy, audit: Audit) -> Middleware:
    """Build the middleware for these handlers."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        request_check = _RequestCheck(
            request, policies.get(handler) or _policy_without_route(request), origins, audit
        )
        response = await request_check.run(handler)
        request_check.finish(response)
        return response

    return check


def _policy_without_route(request: web.Request) -> RoutePolicy:
    # Compared with the raw path as well, so that no other spelling of a path avoids the authentication.
    return _NO_ROUTE_PUBLIC if request.path == request.raw_path == "/favicon.ico" else _NO_ROUTE


def _remember_headers(request: web.Request) -> PassedHeaders:
    """Return what is known of headers that have passed all checks, and save the next request the same checks.

    Not where more depends on them than whether they pass.
    """
    passed = PassedHeaders(request.raw_headers, has_mark(request.headers))
    if hdrs.TRANSFER_ENCODING not in request.headers and worker_removal.HEADER not in request.headers:
        remember_headers(request, passed)
    return passed


def _check_size(request: web.Request) -> None:
    if sum(map(len, chain.from_iterable(request.raw_headers))) > MAX_HEADER_BYTES:
        raise HttpProblem(
            "headers-too-large", f"all headers together exceed {MAX_HEADER_BYTES} bytes", limit=MAX_HEADER_BYTES
        )


def _check_target(request: web.Request) -> None:
    if request.raw_path[:1] != "/" or "#" in request.raw_path:
        raise HttpProblem(
            "bad-request", "the request target must be a path, optionally with a query", {"Connection": "close"}
        )
    if not has_one_spelling(request.raw_path.partition("?")[0]):
        raise HttpProblem(
            "bad-request",
            "the path must be in its one spelling: no empty or dot segments, no parameters, and"
            " percent-encoding (in upper case) only of what needs it",
        )


def _check_framing(request: web.Request) -> None:
    # A proxy before us may see the end of any other body elsewhere, and with it another next request (RFC 9112, 6.1).
    codings = [ascii_text.lower(coding) for coding in request.headers.getall(hdrs.TRANSFER_ENCODING)]
    if request.version != HttpVersion11 or codings != ["chunked"]:
        detail = "Transfer-Encoding must be chunked, and requires HTTP/1.1"
        raise HttpProblem("bad-request", detail, {"Connection": "close"})


def _allowed_methods(request: web.Request) -> str:
    """Return the methods of the path, as far as the router knows them."""
    error = request.match_info.http_exception
    allowed = error.allowed_methods if isinstance(error, web.HTTPMethodNotAllowed) else {request.method}
    return ", ".join(sorted({*allowed, "OPTIONS"}))


def _check_query(request: web.Request, policy: RoutePolicy) -> None:
    if isinstance(request.match_info.http_exception, web.HTTPException):
        return  # there is no route, which is the better response
    for name in request.query:
        if name not in policy.parameters:
            raise BadParameter(name, f"unknown parameter {name!r} for {request.path}")
        if name not in REPEATABLE_PARAMETERS and len(request.query.getall(name)) > 1:
            raise BadParameter(name, f"{name} may be given only once")


def _check_accept(request: web.Request, policy: RoutePolicy) -> None:
    accept = ", ".join(request.headers.getall(hdrs.ACCEPT, ()))
    if not accept or accept == "*/*" or not policy.content_type:
        return
    if not accepts(accept, policy.content_type) and not (policy.alternative and accepts(accept, policy.alternative)):
        raise HttpProblem(
            "not-acceptable",
            f"the response is {policy.content_type}, which Accept excludes",
            produces=policy.content_type,
        )
