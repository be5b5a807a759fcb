"""Keepers that run commands which the history does not know: list them, and have one end its command.

Handlers of the routes under /api/keepers. Must not know how a keeper is reached.
"""

from collections.abc import Sequence
from typing import Any, Final, Protocol

from aiohttp import web

from shellrunner.clock import Millis, format_rfc3339
from shellrunner.errors import BadParameter, NoSuchKeeper
from shellrunner.web.http import responses
from shellrunner.web.http.parameters import name
from shellrunner.web.http.streaming import STREAMS
from shellrunner.web.security import audit
from shellrunner.wire import documents


class KeeperLike(Protocol):
    """A keeper, and the command that it runs."""

    @property
    def number(self) -> int:
        """The keeper's number on its host."""

    @property
    def host(self) -> str | None:
        """The name of its host; None where there are no others."""

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

    async def find(self) -> Sequence[KeeperLike]:
        """Return those that still run, of the hosts that answer."""

    async def end(self, keeper: Any, /) -> None:
        """Have one of them end its command; does not wait for that.

        Raises:
            NoSuchKeeper: it does not run any more.
            KeeperSilent: its host does not answer.
        """


UNKNOWN_KEEPERS: Final[web.AppKey[UnknownKeeperControls]] = web.AppKey("unknown_keepers")


async def index(request: web.Request) -> web.StreamResponse:
    """GET /api/keepers: list the keepers that run commands which the history does not know."""
    return await responses.ok(request, await _keepers(request))


async def end(request: web.Request) -> web.StreamResponse:
    """DELETE /api/keepers/{keeper}: have a keeper that the history does not know end its command.

    Each host counts its own keepers: if several have one of this number, `host` has to name one.
    """
    request.app[STREAMS].raise_if_closing()
    number, host, controls = int(request.match_info["keeper"]), name(request, "host"), request.app[UNKNOWN_KEEPERS]
    found = [each for each in await controls.find() if each.number == number and host in {None, each.host}]
    if not found:
        raise NoSuchKeeper(number)
    if len(found) > 1:
        raise BadParameter("host", f"several hosts have a keeper {number}: name one with host")
    (keeper,) = found
    fields = {"keeper": number, "pid": keeper.pid, "job": keeper.job_id, "history": keeper.history}
    await audit.accept(request, **fields, **({"host": keeper.host} if keeper.host else {}))
    await controls.end(keeper)
    return await responses.no_store(request, 202, await _keepers(request), {"Location": "/api/keepers"})


async def _keepers(request: web.Request) -> documents.Keepers:
    found = await request.app[UNKNOWN_KEEPERS].find()
    return {
        "keepers": [
            {
                "keeper": each.number,
                "host": each.host,
                "pid": each.pid,
                "job_id": each.job_id,
                "history": each.history,
                "started": format_rfc3339(each.started),
            }
            for each in found
        ]
    }
