"""Keepers that run commands which the history does not know: list them, and have one end its command.

Handlers of the routes under /api/keepers. Must not know how a keeper is reached.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from aiohttp import web

from shellrunner.clock import Millis, format_rfc3339
from shellrunner.errors import NoSuchKeeper
from shellrunner.web.http import responses
from shellrunner.web.http.streaming import STREAMS
from shellrunner.web.security import audit
from shellrunner.wire import documents


class KeeperLike(Protocol):
    """A keeper, and the command that it runs."""

    @property
    def number(self) -> int:
        """The keeper's number."""

    @property
    def pid(self) -> int:
        """The keeper's pid."""

    @property
    def job_id(self) -> int:
        """The job's id in its history."""

    @property
    def history(self) -> str:
        """The id of the history that it belongs to."""

    @property
    def started(self) -> Millis:
        """When the command was started."""


class UnknownKeeperControls(Protocol):
    """The keepers that the history does not know; the supervisor implements it."""

    def list(self) -> Sequence[KeeperLike]:
        """Return those that still run."""

    def end(self, number: int) -> None:
        """Have the keeper end its command; returns at once.

        Raises:
            NoSuchKeeper: there is none.
        """


UNKNOWN_KEEPERS: Final[web.AppKey[UnknownKeeperControls]] = web.AppKey("unknown_keepers")


async def index(request: web.Request) -> web.StreamResponse:
    """GET /api/keepers: list the keepers that run commands which the history does not know."""
    return await responses.ok(request, _keepers(request))


async def end(request: web.Request) -> web.StreamResponse:
    """DELETE /api/keepers/{keeper}: have a keeper that the history does not know end its command."""
    request.app[STREAMS].raise_if_closing()
    number, controls = int(request.match_info["keeper"]), request.app[UNKNOWN_KEEPERS]
    keeper = next((each for each in controls.list() if each.number == number), None)
    if keeper is None:
        raise NoSuchKeeper(number)
    await audit.accept(request, keeper=number, pid=keeper.pid, job=keeper.job_id, history=keeper.history)
    controls.end(number)
    return await responses.no_store(request, 202, _keepers(request), {"Location": "/api/keepers"})


def _keepers(request: web.Request) -> documents.Keepers:
    found = request.app[UNKNOWN_KEEPERS].list()
    return {
        "keepers": [
            {
                "keeper": each.number,
                "pid": each.pid,
                "job_id": each.job_id,
                "history": each.history,
                "started": format_rfc3339(each.started),
            }
            for each in found
        ]
    }
