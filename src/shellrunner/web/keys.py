"""What the app carries for its handlers, by typed keys.

Set by `make_app`, read by the resources.
"""

from collections.abc import Callable, Sequence
from typing import Final

from aiohttp import web

from shellrunner.config import Settings
from shellrunner.store import Store

STORE: Final = web.AppKey("store", Store)
SETTINGS: Final = web.AppKey("settings", Settings)
READY: Final[web.AppKey[Callable[[], Sequence[str]]]] = web.AppKey("ready")


def job_id(request: web.Request) -> int:
    """The id in the path; its form is the route's."""
    return int(request.match_info["id"])
