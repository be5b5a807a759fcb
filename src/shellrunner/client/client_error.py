"""What can go wrong between a client and its server, as one error with words for a person.

Raised by everything in this package. Must not know how requests are made.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, cast

from shellrunner.errors import ShellrunnerError

if TYPE_CHECKING:
    from shellrunner.wire.documents import Problem

UNREACHABLE: Final = "unreachable"  # no connection: nothing was sent
INTERRUPTED: Final = "interrupted"  # a connection that broke: whether the request was heard is not known
UNTRUSTED: Final = "untrusted"  # TLS does not vouch for the server
FOREIGN: Final = "foreign"  # an answer, but not shellrunner's: a proxy's, or another program's

_TYPE: Final = "/problems/"
_GATEWAYS: Final = (502, 503, 504)  # a proxy has lost the server, or does not have it yet


class ClientError(ShellrunnerError):
    """What was asked for was refused, or nobody was there; `detail` says it in words.

    `status` is the answer's status, 0 if none came. `kind` is the last part of the problem's `type`
    (`no-such-job`, `queue-full`, …), or `unreachable`, `interrupted`, `untrusted` or `foreign`. `problem` is the
    document itself (RFC 9457), if there is one.
    """

    def __init__(self, detail: str, *, kind: str, status: int = 0, problem: "Problem | None" = None) -> None:
        super().__init__(detail)
        self.kind, self.status, self.problem = kind, status, problem

    @property
    def passes(self) -> bool:
        """Whether the same request may succeed a little later, without anybody doing anything."""
        if self.kind == FOREIGN:
            return self.status in _GATEWAYS
        return self.kind in {UNREACHABLE, INTERRUPTED, "shutting-down"}


def refusal(status: int, reason: str, document: object, place: str) -> ClientError:
    """The error of an answer that is none of those hoped for; `document` is its body, if that is JSON."""
    if not _is_problem(document):
        words = f"{place} answered {status} {reason}, and not in shellrunner's words: a proxy, or another program?"
        return ClientError(words, kind=FOREIGN, status=status)
    problem = cast("Problem", document)
    kind = problem["type"].removeprefix(_TYPE)
    return ClientError(_words(problem), kind=kind, status=status, problem=problem)


def _is_problem(document: object) -> bool:
    return (
        isinstance(document, Mapping)
        and isinstance(document.get("detail"), str)
        and str(document.get("type")).startswith(_TYPE)
    )


def _words(problem: "Problem") -> str:
    faults = problem.get("errors", [])
    if len(faults) <= 1:
        return problem["detail"]
    return "; ".join(f"{fault['pointer']}: {fault['detail']}" for fault in faults)
