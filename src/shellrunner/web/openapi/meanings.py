"""What each kind of problem means, in a line.

Used by the OpenAPI document. Must not know which route has which.
"""

from collections.abc import Iterator
from typing import Final

from shellrunner.errors import ShellrunnerError

# Those that HTTP has, and no error of ours.
_OF_HTTP: Final = {
    "bad-request": "The request is not HTTP as it should be.",
    "unconfirmed": "Many jobs would be deleted, and `confirm=true` is not given.",
    "cross-site": "A page of another site asks.",
    "not-found": "There is nothing at this path.",
    "method-not-allowed": "The path does not know this method; `Allow` has those that it knows.",
    "not-acceptable": "`Accept` excludes what this route gives.",
    "body-too-slow": "The body did not arrive within 10 seconds.",
    "precondition-failed": "`If-Match` names another version, or `If-None-Match` this one.",
    "too-large": "The body has more than 1 MiB.",
    "unsupported-media-type": "The body is of another type than this route takes, or is compressed.",
    "range-not-satisfiable": "The range lies behind the end.",
    "expectation-failed": "The request has an unknown `Expect`.",
    "wrong-host": "`Host` is not a name under which the service is served.",
    "headers-too-large": "The request line or a header is too long, or they are too many.",
    "internal": "A bug of the service; its log has all of it under `id`.",
    "shutting-down": "The service is being stopped.",
    "not-ready": "Jobs are not accepted or run just now; the log says why.",
}


def of(code: str) -> str:
    """What this code means.

    Raises:
        KeyError: nobody knows.
    """
    return _OF_HTTP.get(code) or _ERRORS[code]


def _all(kind: type[ShellrunnerError]) -> Iterator[type[ShellrunnerError]]:
    for each in kind.__subclasses__():
        yield each
        yield from _all(each)


_ERRORS: Final = {
    each.code: " ".join((each.__doc__ or "").split()) for each in _all(ShellrunnerError) if "code" in vars(each)
}
