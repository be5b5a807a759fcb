"""Problem responses (RFC 9457): one table from error codes to statuses, one shape for all.

Used by every module of `web`. Must not know which resource an error is about.
"""

import logging
import secrets
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from shellrunner.errors import (
    InsufficientScope,
    ShellrunnerError,
    TokenNeeded,
    TooManyConnections,
    TooManyQueuedJobs,
    TooManyRequests,
    TooManyWrongTokens,
)
from shellrunner.wire import json_codec

log = logging.getLogger("shellrunner.web")

# Sent with every response: they keep a browser from misusing what a command wrote.
SECURITY_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), usb=()",
    "Server": "shellrunner",
}

STATUSES: Final = {
    "bad-request": 400,
    "malformed-json": 400,
    "bad-parameter": 400,
    "bad-cursor": 400,
    "unconfirmed": 400,
    "token-needed": 401,
    "cross-site": 403,
    "not-this-user": 403,
    "insufficient-scope": 403,
    "network-not-allowed": 403,
    "command-not-allowed": 403,
    "not-yours": 403,
    "sessions-off": 403,
    "not-found": 404,
    "no-such-job": 404,
    "no-such-attempt": 404,
    "no-such-queue": 404,
    "no-such-keeper": 404,
    "no-such-host": 404,
    "no-result-yet": 404,
    "method-not-allowed": 405,
    "not-acceptable": 406,
    "body-too-slow": 408,
    "not-done": 409,
    "already-done": 409,
    "already-started": 409,
    "job-changed": 409,
    "not-running": 409,
    "queue-configured": 409,
    "queue-not-empty": 409,
    "host-reachable": 409,
    "only-host": 409,
    "too-many-queues": 409,
    "being-ended": 409,
    "input-closed": 409,
    "input-taken": 409,
    "no-terminal": 409,
    "wrong-offset": 409,
    "result-gone": 410,
    "job-gone": 410,
    "precondition-failed": 412,
    "too-large": 413,
    "unsupported-media-type": 415,
    "range-not-satisfiable": 416,
    "expectation-failed": 417,
    "wrong-host": 421,
    "invalid-job": 422,
    "invalid-signal": 422,
    "invalid-size": 422,
    "invalid-queue": 422,
    "key-reused": 422,
    "too-many-wrong-tokens": 429,
    "too-many-streams": 429,
    "too-many-connections": 429,
    "too-many-queued-jobs": 429,
    "too-many-requests": 429,
    "headers-too-large": 431,
    "internal": 500,
    "queue-full": 503,
    "input-full": 503,
    "keeper-silent": 503,
    "audit-unavailable": 503,
    "store-unavailable": 503,
    "outcome-unknown": 503,
    "shutting-down": 503,
    "not-ready": 503,
    "no-space": 507,
}

# Faults of the service that do not pass by themselves, and so are logged as errors.
_LOGGED: Final = frozenset({"store-unavailable", "outcome-unknown", "no-space", "keeper-silent"})
# The codes of what aiohttp raises by itself, by status.
_AIOHTTP_CODES: Final = {404: "not-found", 405: "method-not-allowed", 413: "too-large", 417: "expectation-failed"}
PROBLEM_CODE: Final = web.ResponseKey("problem", str)  # the code of a problem response, for the metrics
_CHALLENGE: Final = 'Bearer realm="shellrunner"'
_RETRY_SOON: Final = {"Retry-After": "1"}


class HttpProblem(ShellrunnerError):
    """A problem of the HTTP layer, with the code `kind`; `headers` are added to the response."""

    def __init__(self, kind: str, detail: str, headers: Mapping[str, str] | None = None, **members: Any) -> None:
        super().__init__(detail, **members)
        self.kind = kind
        self.headers = headers


def wrong_host() -> HttpProblem:
    """Return the problem of a request under a `Host` that is not served."""
    # A page of another site can make its own name resolve to 127.0.0.1, but cannot put our name into Host.
    return HttpProblem(
        "wrong-host",
        "Host must be one of server.names (by default localhost, 127.0.0.1, [::1]) with the port of the listener, and"
        " the service must listen on every loopback address that the name means (localhost: 127.0.0.1 and ::1);"
        " for requests through a proxy, name its origin in server.origins",
    )


def wrong_protocol() -> HttpProblem:
    """Return the problem of a request line of another protocol, or of another version of HTTP."""
    return HttpProblem("bad-request", "the protocol must be HTTP/1.0 or HTTP/1.1", {"Connection": "close"})


def code_of(error: ShellrunnerError | web.HTTPException) -> str:
    """Return the problem code of an error."""
    if isinstance(error, web.HTTPException):
        return _AIOHTTP_CODES.get(error.status, "bad-request" if error.status < 500 else "internal")
    code = error.kind if isinstance(error, HttpProblem) else error.code
    return code if code in STATUSES else "internal"


def from_error(error: ShellrunnerError) -> web.Response:
    """Build the response to a known error."""
    if isinstance(error, HttpProblem):
        return problem(error.kind, error.detail, error.headers, **error.members)
    code = code_of(error)
    if code == "internal":
        return internal_error(error)
    if code in _LOGGED:
        log.error("%s: %s", code, error.detail, extra={"repeats": code})
    return problem(code, error.detail, _headers_of(error), **error.members)


def _headers_of(error: ShellrunnerError) -> Mapping[str, str]:
    """Return the headers that belong to an error (RFC 6750, 3; RFC 9110, 10.2.3)."""
    match error:
        case TokenNeeded():
            return {"WWW-Authenticate": _CHALLENGE + (', error="invalid_token"' if error.wrong else "")}
        case InsufficientScope():
            return {"WWW-Authenticate": f'{_CHALLENGE}, error="insufficient_scope", scope="{error.scope}"'}
        case TooManyWrongTokens() | TooManyRequests():
            return {"Retry-After": str(error.retry_after)}
        case TooManyQueuedJobs():
            return _RETRY_SOON
        case TooManyConnections():
            return {**_RETRY_SOON, "Connection": "close"}
    return {}


def from_http_exception(error: web.HTTPException, request: web.BaseRequest) -> web.Response:
    """Build the response to an exception of aiohttp: no such path, unsupported method, body too large."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allow = {"Allow": ", ".join(sorted({*error.allowed_methods, "OPTIONS"}))}
        if request.method == "OPTIONS":
            return web.Response(status=204, headers=allow)
        return problem("method-not-allowed", f"{request.path} does not support {request.method}", allow)
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        limit = request.client_max_size
        return problem("too-large", f"the body is larger than {limit >> 20} MiB", limit=limit)
    code = code_of(error)
    return problem(code, f"there is nothing at {request.path}" if code == "not-found" else error.reason)


def internal_error(error: BaseException) -> web.Response:
    """Build the response to a bug: it shows only an id, under which the log has the traceback."""
    error_id = secrets.token_hex(8)
    log.error("internal error %s", error_id, exc_info=error, extra={"error_id": error_id})
    return problem(
        "internal", "an internal error occurred; the service's log has the details under this id", id=error_id
    )


def problem(code: str, detail: str, headers: Mapping[str, str] | None = None, **members: Any) -> web.Response:
    """Build a problem response; `members` are added to the document."""
    status = STATUSES[code]
    document = {
        "type": f"/problems/{code}",
        "title": code.replace("-", " ").capitalize(),
        "status": status,
        "detail": detail,
        **members,
    }
    about = {"Content-Type": "application/problem+json; charset=utf-8", "Cache-Control": "no-store"}
    retry = _RETRY_SOON if status in (503, 507) else {}
    response = web.Response(
        status=status, body=json_codec.dumps(document), headers={**about, **retry, **(headers or {})}
    )
    response[PROBLEM_CODE] = code
    if response.headers.get("Connection") == "close":
        response.force_close()
    return response
