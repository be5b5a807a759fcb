"""What is said to a running command: signals, and input that is sent while it runs.

Handlers of POST /api/jobs/{id}/signal and /stdin. Must not know how a command is reached.
"""

from collections.abc import Mapping
from typing import Final, Protocol

from aiohttp import web

from shellrunner.web.app_keys import STORE, identity_of, job_id
from shellrunner.web.http import bodies, responses
from shellrunner.web.http.parameters import flag, integer
from shellrunner.web.http.streaming import STREAMS
from shellrunner.web.security import ownership
from shellrunner.wire import parse, serialize

_LAST: Final = 10**18 - 1


class JobControls(Protocol):
    """Reaches the commands that run."""

    @property
    def signals(self) -> Mapping[str, int]:
        """The signals that there are, by name."""

    async def send_signal(self, job_id: int, signum: int) -> None:
        """Send a signal to the command's process group.

        Raises:
            NoSuchJob, NotRunning, KeeperSilent.
        """

    async def send_input(self, job_id: int, offset: int | None, data: bytes, *, end: bool) -> None:
        """Give the command all of `data` to read, if its input stands at `offset`, and perhaps the end of it.

        Raises:
            NoSuchJob, NotRunning, KeeperSilent.
            InputClosed, WrongOffset, InputFull: nothing of it was taken.
        """


CONTROLS: Final[web.AppKey[JobControls]] = web.AppKey("controls")


async def signal(request: web.Request) -> web.StreamResponse:
    """POST /api/jobs/{id}/signal: send a signal to its process group."""
    app, wanted = request.app, job_id(request)
    app[STREAMS].raise_if_closing()
    content = await bodies.read_json(request)
    await app[CONTROLS].send_signal(wanted, parse.signal_number(content, app[CONTROLS].signals))
    job = await app[STORE].job(wanted)
    return await responses.no_store(request, 202, serialize.status(job), {"Location": serialize.status_path(wanted)})


async def stdin(request: web.Request) -> web.Response:
    """POST /api/jobs/{id}/stdin: let it read the body, and with `end` the end of its input."""
    request.app[STREAMS].raise_if_closing()
    offset, end = integer(request, "offset", minimum=0, maximum=_LAST), flag(request, "end")
    content = await bodies.read(request)
    await ownership.check_stdin(request, identity_of(request))
    await request.app[CONTROLS].send_input(job_id(request), offset, content, end=end)
    return web.Response(status=204)
