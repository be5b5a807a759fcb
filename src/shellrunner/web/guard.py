"""The one gate that every request passes: target, Host, origin, then what its route takes and gives.

A middleware of `make_app`; also turns every error into a problem. Must not know any resource.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web
from aiohttp.typedefs import Middleware

from shellrunner.errors import BadParameter, ShellrunnerError
from shellrunner.web import problems
from shellrunner.web.problems import Refused

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PROBES: Final = frozenset({"/healthz", "/readyz"})
_VERSIONS: Final = (HttpVersion11, HttpVersion10)
# On every response: it keeps a browser from misusing what a command wrote.
HARDENED: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Server": "shellrunner",
}


@dataclass(frozen=True, slots=True)
class Terms:
    """What a route takes and gives: the parameters of its query, and the type of its answer (none: no body)."""

    parameters: frozenset[str] = frozenset()
    produces: str = ""


ANY: Final = Terms()
REPEATABLE: Final = frozenset({"label"})  # parameters of a query that may come more than once


def gate(terms: Mapping[Handler, Terms]) -> Middleware:
    """Build the gate for these handlers; no route (404, 405) is on any terms."""

    @web.middleware
    async def let_through(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            _check(request, terms.get(handler, ANY))
            response = await handler(request)
        except ShellrunnerError as error:
            response = _answer(request, problems.of(error))
        except web.HTTPException as error:
            response = _answer(request, problems.foreign(error, request.method, request.path))
        except web.RequestPayloadError:
            response = _answer(request, problems.problem("bad-request", "the body cannot be read as it is encoded"))
        except ConnectionError:
            raise  # the client has gone; nobody is there to be told
        except Exception as error:  # noqa: BLE001  the border: one request's bug is told to its client, and ends here
            response = _answer(request, problems.internal(error))
        if not response.prepared:
            response.headers.update(HARDENED)
        return response

    return let_through


def _answer(request: web.Request, answer: web.Response) -> web.Response:
    """The answer, unless another has begun: then the only honest thing left is to break the connection."""
    if request.writer.output_size == 0:
        return answer
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionAbortedError("an answer failed after it had begun")


def _check(request: web.Request, terms: Terms) -> None:
    path, headers = request.path, request.headers
    if request.version not in _VERSIONS:
        request._cache["version"] = HttpVersion11  # noqa: SLF001  the status line must not claim what we do not speak
        raise Refused("bad-request", "the protocol must be HTTP/1.0 or HTTP/1.1", {"Connection": "close"})
    if request.raw_path[:1] != "/" or "#" in request.raw_path:
        raise Refused("bad-request", "the target must be a path, perhaps with a query")
    if path not in PROBES:
        _check_host(request)
        # Every path but the page's own: a path that is spelled in another way must not slip by.
        if path != "/":
            _check_site(request)
    if request.rel_url.raw_query_string and path not in PROBES:
        _check_query(request, terms)
    accept = ", ".join(headers.getall(hdrs.ACCEPT, ()))
    if accept and accept != "*/*" and terms.produces and not accepts(accept, terms.produces):
        raise Refused("not-acceptable", f"this is {terms.produces}, and Accept excludes it", produces=terms.produces)


def _check_host(request: web.Request) -> None:
    hosts = request.headers.getall(hdrs.HOST, ())
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client has gone")
    if len(hosts) != 1 or hosts[0].lower() not in _hosts(transport.get_extra_info("sockname")[1]):
        raise wrong_host()


def wrong_host() -> Refused:
    """Say which hosts are served."""
    # A page of another site can make its own name resolve to 127.0.0.1, but not put our name into Host.
    return Refused("wrong-host", "Host must be localhost, 127.0.0.1 or [::1], with the port that server.port names")


def packed() -> Refused:
    """Say that a body must come as it is."""
    # The connection ends, because its next request could only be found by unpacking this one.
    return Refused(
        "unsupported-media-type",
        "Content-Encoding must be identity",
        {"Accept-Encoding": "identity", "Connection": "close"},
    )


@lru_cache(64)
def _hosts(port: int) -> frozenset[str]:
    names = ("localhost", "127.0.0.1", "[::1]")
    return frozenset({f"{name}:{port}" for name in names} | (set(names) if port == 80 else set()))


def _check_site(request: web.Request) -> None:
    headers = request.headers
    if hdrs.ORIGIN in headers:
        own = f"{request.scheme}://{headers[hdrs.HOST].lower()}"
        if any(origin.lower() != own for origin in headers.getall(hdrs.ORIGIN)):
            raise Refused("cross-site", "Origin is another site")
    if "Sec-Fetch-Site" in headers:
        sites = {site.lower() for site in headers.getall("Sec-Fetch-Site")}
        if not sites.isdisjoint({"cross-site", "same-site"}):
            raise Refused("cross-site", "Sec-Fetch-Site says that another site asks")


def _check_query(request: web.Request, terms: Terms) -> None:
    if isinstance(request.match_info.http_exception, web.HTTPException):
        return  # no route: that is the better answer
    for name in request.query:
        if name not in terms.parameters:
            raise BadParameter(name, f"{request.path} has no parameter {name!r}")
        if name not in REPEATABLE and len(request.query.getall(name)) > 1:
            raise BadParameter(name, f"{name} is given more than once")


@lru_cache(256)
def accepts(accept: str, offered: str) -> bool:
    """Whether an `Accept` leaves us the type that we have (RFC 9110, 12.5.1: the most specific range counts)."""
    kind = offered.partition("/")[0]
    weights: dict[str, float] = {}
    for item in accept.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        weights[name] = max(weights.get(name, 0.0), _weight(parameters))
    for media_range in (offered, f"{kind}/*", "*/*"):
        if media_range in weights:
            return weights[media_range] > 0
    return not accept.strip()


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 1.0
    return 1.0
