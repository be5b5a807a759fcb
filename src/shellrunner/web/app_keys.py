"""What the app carries for its handlers, by typed keys.

Set by `make_app`, read by the resources.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from aiohttp import web

from shellrunner.access.authenticator import Authenticator
from shellrunner.config import Settings
from shellrunner.store import History


@dataclass(frozen=True, slots=True)
class FrontFigures:
    """What only the web side knows: its streams by kind, open connections, those it cut and answers by problem."""

    followers: Mapping[str, int]
    connections: int
    cut: Mapping[str, int]
    problems: Mapping[str, int]


class Render(Protocol):
    """Renders the figures of the whole service."""

    def __call__(self, front: FrontFigures, *, openmetrics: bool) -> Awaitable[bytes]:
        """OpenMetrics 1.0.0, or else Prometheus' text format 0.0.4.

        Raises:
            StoreUnavailable: the history cannot be read.
        """


STORE: Final = web.AppKey("store", History)
SETTINGS: Final = web.AppKey("settings", Settings)
READY: Final[web.AppKey[Callable[[], Sequence[str]]]] = web.AppKey("ready")
DOOR: Final = web.AppKey("door", Authenticator)
RENDER: Final[web.AppKey[Render]] = web.AppKey("render")


def job_id(request: web.Request) -> int:
    """The id in the path; its form is the route's."""
    return int(request.match_info["id"])
