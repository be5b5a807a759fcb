"""The one gate that every request passes: line and Host, then Origin, then who asks, then what the route takes.

A middleware of `make_app`; also turns every error into a problem. Must not know any resource.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Final

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web
from aiohttp.typedefs import Middleware

from shellrunner.errors import BadParameter, ShellrunnerError
from shellrunner.model.filters import FILTERS
from shellrunner.web.app_keys import identity_of
from shellrunner.web.http import bodies, problems
from shellrunner.web.http.accept import accepts
from shellrunner.web.http.aiohttp_internals import override_version
from shellrunner.web.http.problems import SECURITY_HEADERS, HttpProblem
from shellrunner.web.route import Access, Handler
from shellrunner.web.security import authentication, ownership
from shellrunner.web.security.audit import Audit
from shellrunner.web.security.origin import OriginPolicy

_VERSIONS: Final = (HttpVersion11, HttpVersion10)
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_HEADER_BYTES: Final = 1 << 15  # of all headers of a request together
REPEATABLE_PARAMETERS: Final = frozenset(info.parameter for info in FILTERS.values() if info.type.repeatable)


@dataclass(frozen=True, slots=True)
class RoutePolicy:
    """What a route is for: for whom, with which parameters in its query, and its type of answer (none: no body)."""

    access: Access
    parameters: frozenset[str] = frozenset()
    content_type: str = ""


# Where there is no route: that there is none is told to those whom everything else is told.
_NO_ROUTE: Final = RoutePolicy(Access.AUTHENTICATED)
_NO_ROUTE_PUBLIC: Final = RoutePolicy(Access.HOST_CHECKED)


class _RequestCheck:
    """One request on its way through the gate."""

    def __init__(self, request: web.Request, policy: RoutePolicy, origins: OriginPolicy, audit: Audit) -> None:
        self._request, self._policy, self._origins, self._audit = request, policy, origins, audit
        self._number: int | None = None
        self._inside = False

    async def go(self, handler: Handler) -> web.StreamResponse:
        """Be let in and answered, or be refused."""
        try:
            welcome = await self._come_in()
            self._inside = True
            return welcome or await handler(self._request)
        except ShellrunnerError as error:
            return self._refuse(problems.code_of(error), problems.from_error(error))
        except web.HTTPException as error:
            answer = problems.from_http_exception(error, self._request.method, self._request.path)
            return self._refuse(problems.code_of(error), answer)
        except web.RequestPayloadError:
            answer = problems.problem("bad-request", "the body cannot be read as it is encoded")
            return self._refuse("bad-request", answer)
        except ConnectionError:
            raise  # the client has gone; nobody is there to be told
        except Exception as error:  # noqa: BLE001  the border: one request's bug is told to its client, and ends here
            return self._instead(problems.internal_error(error))

    def leave(self, response: web.StreamResponse) -> None:
        """End the connection where it must end, and say what came of it."""
        if hdrs.TRANSFER_ENCODING in self._request.headers:
            # aiohttp (3.14.5) takes the last trailer behind a body in chunks for a header of the next request.
            response.force_close()
        if self._number is not None:
            self._audit.log_response(self._request, self._number, response)

    async def _come_in(self) -> web.Response | None:
        request, access = self._request, self._policy.access
        _check_line(request)
        if access is not Access.PUBLIC:
            self._origins.check_host(request)
        if access not in (Access.PUBLIC, Access.HOST_CHECKED):
            self._origins.check_origin(request)
            if welcome := self._origins.preflight_response(request, _allowed(request)):
                return welcome
            await self._be_known()
        elif access is Access.HOST_CHECKED and request.path != "/":
            self._origins.check_origin(request)
        if request.rel_url.raw_query_string and access is not Access.PUBLIC:
            _check_query(request, self._policy)
        _check_accept(request, self._policy)
        if access not in (Access.PUBLIC, Access.HOST_CHECKED) and request.method not in _SAFE_METHODS:
            who = identity_of(request)
            self._number = await self._audit.log_request(request, who, self._origins.client_endpoint(request))
        return None

    async def _be_known(self) -> None:
        request, access = self._request, self._policy.access
        who = authentication.authenticate_credentials(request, self._origins, access)
        if request.method not in _SAFE_METHODS and self._policy is not _NO_ROUTE:
            if who is None and not request.content.is_eof():
                authentication.authenticate_peer(request)  # a stranger's body is not waited for, and takes no memory
            # All of it is here before the kernel is asked, so that whoever asks is still there then.
            await bodies.preload(request)
        who = who or authentication.authenticate_peer(request)
        authentication.authorize(request, who, access)
        if access is Access.RUN and who.is_restricted:
            await ownership.check_owner(request, who)

    def _refuse(self, why: str, answer: web.Response) -> web.Response:
        if not self._inside:
            name = authentication.name_of(self._request)
            self._audit.log_rejection(self._request, name, self._origins.client_endpoint(self._request), why)
        return self._instead(answer)

    def _instead(self, answer: web.Response) -> web.Response:
        """The answer, unless another has begun: then the only honest thing left is to break the connection."""
        if self._request.writer.output_size == 0:
            return answer
        if self._request.transport is not None:
            self._request.transport.abort()
        raise ConnectionAbortedError("an answer failed after it had begun")


def add_security_headers(origins: OriginPolicy) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """Build what gives all answers what each of them has, streams too, just before they begin."""

    async def put_on(request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(SECURITY_HEADERS)
        response.headers.extend(origins.cors_headers(request))  # beside a `Vary` of its own

    return put_on


def security_middleware(policy: Mapping[Handler, RoutePolicy], origins: OriginPolicy, audit: Audit) -> Middleware:
    """Build the gate for these handlers, on their policy."""

    @web.middleware
    async def let_through(request: web.Request, handler: Handler) -> web.StreamResponse:
        passage = _RequestCheck(request, policy.get(handler) or _nowhere(request), origins, audit)
        response = await passage.go(handler)
        passage.leave(response)
        return response

    return let_through


def _nowhere(request: web.Request) -> RoutePolicy:
    # A path that is spelled in another way must not slip by: only what is plainly elsewhere is outside.
    return _NO_ROUTE_PUBLIC if request.path == request.raw_path == "/favicon.ico" else _NO_ROUTE


def _check_line(request: web.Request) -> None:
    if request.version not in _VERSIONS:
        override_version(request, HttpVersion11)  # the status line must not claim a version that we do not speak
        raise HttpProblem("bad-request", "the protocol must be HTTP/1.0 or HTTP/1.1", {"Connection": "close"})
    if sum(map(len, chain.from_iterable(request.raw_headers))) > MAX_HEADER_BYTES:
        raise HttpProblem("headers-too-large", "the headers are too long together", limit=MAX_HEADER_BYTES)
    if request.raw_path[:1] != "/" or "#" in request.raw_path:
        raise HttpProblem("bad-request", "the target must be a path, perhaps with a query", {"Connection": "close"})
    if hdrs.TRANSFER_ENCODING in request.headers:
        _check_framing(request)


def _check_framing(request: web.Request) -> None:
    # Whoever stands before us may see the end of any other elsewhere, and so what is behind it (RFC 9112, 6.1).
    codings = [coding.lower() for coding in request.headers.getall(hdrs.TRANSFER_ENCODING)]
    if request.version != HttpVersion11 or codings != ["chunked"]:
        words = "Transfer-Encoding must be chunked, and is for HTTP/1.1 only"
        raise HttpProblem("bad-request", words, {"Connection": "close"})


def _allowed(request: web.Request) -> str:
    """The methods of this path, as far as the router tells them by itself."""
    error = request.match_info.http_exception
    allowed = error.allowed_methods if isinstance(error, web.HTTPMethodNotAllowed) else {request.method}
    return ", ".join(sorted({*allowed, "OPTIONS"}))


def _check_query(request: web.Request, policy: RoutePolicy) -> None:
    if isinstance(request.match_info.http_exception, web.HTTPException):
        return  # no route: that is the better answer
    for name in request.query:
        if name not in policy.parameters:
            raise BadParameter(name, f"{request.path} has no parameter {name!r}")
        if name not in REPEATABLE_PARAMETERS and len(request.query.getall(name)) > 1:
            raise BadParameter(name, f"{name} is given more than once")


def _check_accept(request: web.Request, policy: RoutePolicy) -> None:
    accept = ", ".join(request.headers.getall(hdrs.ACCEPT, ()))
    if accept and accept != "*/*" and policy.content_type and not accepts(accept, policy.content_type):
        raise HttpProblem(
            "not-acceptable", f"this is {policy.content_type}, and Accept excludes it", produces=policy.content_type
        )
