"""Typed keys for what the app and each request carry, and the functions that read them.

The app's are set by `make_app`, the identity by the security middleware; handlers and streams read both.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from aiohttp import web

from shellrunner.access import Identity
from shellrunner.access.authenticator import Authenticator
from shellrunner.clock import Millis
from shellrunner.config import Settings
from shellrunner.model import CommandState
from shellrunner.store import History, Hosts


@dataclass(frozen=True, slots=True)
class HttpFigures:
    """Figures of the web side: followers by kind, connections (unauthenticated: of strangers), cut ones by reason,
    problems by code, audit lines.

    Filled by `handlers.health` at each scrape; `security.middleware` sees every rejected request.
    """

    followers: Mapping[str, int]
    connections: int
    unauthenticated: int
    cut: Mapping[str, int]
    problems: Mapping[str, int]
    suppressed: int


class RenderMetrics(Protocol):
    """Render the metrics of the whole service."""

    def __call__(self, figures: HttpFigures, *, openmetrics: bool) -> Awaitable[bytes]:
        """Render them as OpenMetrics 1.0.0, or else in Prometheus' text format 0.0.4.

        Raises:
            StoreUnavailable: the history cannot be read.
        """


class NotReady(NamedTuple):
    """Why jobs are not accepted, or not run: a kind that anybody may know, and a detail for the log."""

    kind: str
    detail: str


class FindCommandState(Protocol):
    """Finds what is known of a running command beside the history."""

    def __call__(self, job_id: int, claimed: Millis, /) -> CommandState:
        """Return it for the claim of that time; nothing is known of a job that does not run."""


STORE: Final = web.AppKey("store", History)
HOSTS: Final[web.AppKey[Hosts]] = web.AppKey("hosts")
SETTINGS: Final = web.AppKey("settings", Settings)
NOT_READY_REASONS: Final[web.AppKey[Callable[[], Awaitable[Sequence[NotReady]]]]] = web.AppKey("not_ready_reasons")
AUTHENTICATOR: Final = web.AppKey("authenticator", Authenticator)
RENDER_METRICS: Final[web.AppKey[RenderMetrics]] = web.AppKey("render_metrics")

IDENTITY: Final = web.RequestKey("identity", Identity)


def identity_of(request: web.Request) -> Identity:
    """Return the authenticated identity; every request to a route above `Access.HOST_CHECKED` has one."""
    return request[IDENTITY]


def job_id(request: web.Request) -> int:
    """Return the id in the path, whose form the route's pattern has checked."""
    return int(request.match_info["id"])
