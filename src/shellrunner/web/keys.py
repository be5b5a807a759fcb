"""What the app carries for its handlers, by typed keys.

Set by `make_app`, read by the resources.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol

from aiohttp import web

from shellrunner.config import Settings
from shellrunner.store import Store


class Render(Protocol):
    """Renders the figures of the whole service; `followers` are those that only the web side knows."""

    def __call__(self, followers: Mapping[str, int], *, openmetrics: bool) -> Awaitable[bytes]:
        """OpenMetrics 1.0.0, or else Prometheus' text format 0.0.4.

        Raises:
            StoreUnavailable: the history cannot be read.
        """


STORE: Final = web.AppKey("store", Store)
SETTINGS: Final = web.AppKey("settings", Settings)
READY: Final[web.AppKey[Callable[[], Sequence[str]]]] = web.AppKey("ready")
RENDER: Final[web.AppKey[Render]] = web.AppKey("render")


def job_id(request: web.Request) -> int:
    """The id in the path; its form is the route's."""
    return int(request.match_info["id"])
