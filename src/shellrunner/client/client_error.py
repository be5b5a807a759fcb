"""The one error type of the client, and its construction from an HTTP response or from what broke a connection.

Raised by every module of this package. Must not know how requests are made.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, cast

from shellrunner.errors import ShellrunnerError

if TYPE_CHECKING:
    from shellrunner.wire.documents import Problem

UNREACHABLE: Final = "unreachable"  # no connection: nothing was sent
INTERRUPTED: Final = "interrupted"  # the connection broke: whether the server received the request is unknown
UNTRUSTED: Final = "untrusted"  # the server's TLS certificate could not be verified
OTHER_USER: Final = "other-user"  # the process on this machine that would get the request is not a trusted user's
FOREIGN: Final = "foreign"  # a response that is not shellrunner's: from a proxy or another program

# Reasons why a connection broke.
CLOSED: Final = "it was closed before the response"
CUT_OFF: Final = "it was closed before the end of the response"
SILENT: Final = "no response in time"

_PROBLEM_TYPE_PREFIX: Final = "/problems/"
_GATEWAY_ERRORS: Final = (502, 503, 504)  # a proxy has lost its connection to the server, or does not have one yet


class ClientError(ShellrunnerError):
    """A request was refused or got no response; `detail` is a message for users.

    `status` is the HTTP status of the response, 0 if there was none. `kind` is the last part of the problem's `type`
    (`no-such-job`, `queue-full`, …), or `unreachable`, `interrupted`, `untrusted`, `other-user` or `foreign`.
    `problem` is the problem document (RFC 9457), if there is one.
    """

    def __init__(self, detail: str, *, kind: str, status: int = 0, problem: "Problem | None" = None) -> None:
        super().__init__(detail)
        self.kind, self.status, self.problem = kind, status, problem

    @property
    def is_transient(self) -> bool:
        """Whether the same request may succeed later without any intervention."""
        if self.kind == FOREIGN:
            return self.status in _GATEWAY_ERRORS
        # Whether a submission took effect, its Idempotency-Key finds out; everything else may be repeated.
        return self.kind in {UNREACHABLE, INTERRUPTED, "shutting-down", "outcome-unknown"}


def error_from_response(status: int, reason: str, document: object, address: str) -> ClientError:
    """Return the error for a response with status 400 or above; `document` is its body, None unless that is JSON."""
    if not _is_problem(document):
        detail = f"{address} answered {status} {reason} without a shellrunner problem document: check the address"
        return ClientError(detail, kind=FOREIGN, status=status)
    problem = cast("Problem", document)
    kind = problem["type"].removeprefix(_PROBLEM_TYPE_PREFIX)
    return ClientError(_message(problem), kind=kind, status=status, problem=problem)


def unreachable(address: object, reason: str) -> ClientError:
    """Return the error for a connection that could not be made."""
    return ClientError(f"cannot reach {address}: {reason}", kind=UNREACHABLE)


def interrupted(address: object, reason: str) -> ClientError:
    """Return the error for a connection that broke after it was made."""
    return ClientError(f"the connection to {address} broke: {reason}", kind=INTERRUPTED)


def untrusted(address: object, reason: str) -> ClientError:
    """Return the error for a certificate that does not prove who the server is."""
    return ClientError(f"cannot verify the certificate of {address}: {reason}", kind=UNTRUSTED)


def foreign(address: object, reason: str = "") -> ClientError:
    """Return the error for a response that is not HTTP, or not the JSON that was expected."""
    detail = f"the response from {address} is not shellrunner's{f' ({reason})' if reason else ''}: check the address"
    return ClientError(detail, kind=FOREIGN)


def check_keys(address: object, document: object, keys: str) -> None:
    """Check that a response is an object with these keys, which are separated by spaces.

    Raises:
        ClientError: the response lacks some of them, which it names.
    """
    missing = [key for key in keys.split() if not isinstance(document, Mapping) or key not in document]
    if missing:
        raise foreign(address, f"missing: {', '.join(missing)}")


def os_reason(error: BaseException) -> str:
    """Return the system's message for an error."""
    # asyncio replaces the system's message with one of its own, so the number is the better source.
    number, message = getattr(error, "errno", None), getattr(error, "strerror", None)
    if number and number > 0:
        return os.strerror(number)
    return message or str(error) or type(error).__name__


def _is_problem(document: object) -> bool:
    return (
        isinstance(document, Mapping)
        and isinstance(document.get("detail"), str)
        and str(document.get("type")).startswith(_PROBLEM_TYPE_PREFIX)
    )


def _message(problem: "Problem") -> str:
    errors = problem.get("errors", [])
    if len(errors) <= 1:
        return problem["detail"]
    return "; ".join(f"{error['pointer']}: {error['detail']}" for error in errors)
