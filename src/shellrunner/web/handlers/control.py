"""Control running commands: signals, pauses, standard input, the size of their terminals.

Handlers of POST /api/jobs/{id}/signal, /pause, /resume, /tty and /stdin. Must not know how a command is reached.
"""

from collections.abc import Mapping
from typing import Final, Protocol

from aiohttp import web

from shellrunner.clock import Millis
from shellrunner.errors import BadParameter
from shellrunner.model import CommandState, TerminalSize
from shellrunner.web.app_keys import STORE, identity_of, job_id
from shellrunner.web.feeds.writers import WRITERS
from shellrunner.web.http import bodies, responses
from shellrunner.web.http.parameters import flag, integer, name
from shellrunner.web.http.streaming import STREAMS
from shellrunner.web.security import audit, ownership
from shellrunner.web.status_view import STATUS_VIEW
from shellrunner.wire import parse, serialize

_MAX_OFFSET: Final = 10**18 - 1  # bytes


class JobControls(Protocol):
    """Controls running commands; the supervisor implements it."""

    @property
    def signals(self) -> Mapping[str, int]:
        """The signals that the kernel has, by name."""

    async def send_signal(self, job_id: int, signum: int, *, to_tree: bool) -> None:
        """Send a signal to the command's process group, or to every group of its tree.

        Raises:
            NoSuchJob, NotRunning, KeeperSilent.
        """

    async def pause(self, job_id: int) -> None:
        """Suspend the command and all of its tree; return once its keeper has done so.

        Raises:
            NoSuchJob, NotRunning, KeeperSilent.
            BeingEnded: its tree is being terminated.
        """

    async def resume(self, job_id: int) -> None:
        """Resume the command and its tree; return once its keeper has done so.

        Raises:
            NoSuchJob, NotRunning, KeeperSilent.
        """

    async def resize(self, job_id: int, size: TerminalSize) -> None:
        """Set the size of the command's terminal; return once its keeper has done so.

        Raises:
            NoSuchJob, NotRunning, KeeperSilent.
            NoTerminal: it does not run on one.
        """

    def command_state(self, job_id: int, claimed: Millis, /) -> CommandState:
        """Return what is known of the job's command beside the history; nothing if it does not run.

        `claimed`: when it was, as the history has it.
        """

    async def send_input(self, job_id: int, offset: int | None, data: bytes, *, end: bool) -> None:
        """Write all of `data` to the command's input, which must be at `offset` if that is given; `end` closes it.

        Raises:
            NoSuchJob, NotRunning, KeeperSilent.
            InputClosed, WrongOffset, InputFull: nothing was accepted.
        """


CONTROLS: Final[web.AppKey[JobControls]] = web.AppKey("controls")


async def signal(request: web.Request) -> web.StreamResponse:
    """POST /api/jobs/{id}/signal: send a signal to the command.

    It is sent to the command's own process group or, with `"to": "tree"`, once to every process group among its
    descendants. A command that has just ended gets none.
    """
    app, number = request.app, job_id(request)
    app[STREAMS].raise_if_closing()
    content = await bodies.read_json(request)
    order = parse.signal_order(content, app[CONTROLS].signals)
    await ownership.check_signal(request, identity_of(request))
    await audit.accept(request, job=number, signal=order.name, to="tree" if order.to_tree else "group")
    await app[CONTROLS].send_signal(number, order.number, to_tree=order.to_tree)
    return await _status(request)


async def pause(request: web.Request) -> web.StreamResponse:
    """POST /api/jobs/{id}/pause: stop the command and everything that it has started, until it is resumed.

    What it starts meanwhile is stopped too. Its timeout keeps running, and it can be cancelled as usual.
    Pausing a paused job changes nothing.
    """
    await _accept(request)
    await request.app[CONTROLS].pause(job_id(request))
    return await _status(request)


async def resume(request: web.Request) -> web.StreamResponse:
    """POST /api/jobs/{id}/resume: resume a paused command and everything that it has started.

    Processes that the command itself had stopped stay stopped. Resuming a job that is not paused changes nothing.
    """
    await _accept(request)
    await request.app[CONTROLS].resume(job_id(request))
    return await _status(request)


async def _accept(request: web.Request) -> None:
    """Accept a request without a body that acts on the command as a signal does."""
    request.app[STREAMS].raise_if_closing()
    await ownership.check_signal(request, identity_of(request))
    await audit.accept(request, job=job_id(request))


async def resize(request: web.Request) -> web.StreamResponse:
    """POST /api/jobs/{id}/tty: set the size of the terminal on which the command runs.

    The terminal's foreground gets SIGWINCH, also if the size was the same before.
    """
    app, number = request.app, job_id(request)
    app[STREAMS].raise_if_closing()
    size = parse.terminal_size(await bodies.read_json(request))
    await ownership.check_signal(request, identity_of(request))
    await audit.accept(request, job=number, rows=size.rows, columns=size.columns)
    await app[CONTROLS].resize(number, size)
    return await _status(request)


async def _status(request: web.Request) -> web.StreamResponse:
    """Return the response that the request is carried out, with the job's status."""
    app, number = request.app, job_id(request)
    status = app[STATUS_VIEW].document(await app[STORE].job(number))
    return await responses.no_store(request, 202, status, {"Location": serialize.status_path(number)})


async def stdin(request: web.Request) -> web.Response:
    """POST /api/jobs/{id}/stdin: write the body to the standard input of the command.

    With `end` the input is closed after it. Either all of the body is accepted or nothing. With `writer` the client
    becomes the job's writer, unless another one is and still follows the job under its name; `take` replaces it.
    """
    request.app[STREAMS].raise_if_closing()
    writer, take = name(request, "writer"), flag(request, "take")
    if take and writer is None:
        raise BadParameter("take", "take requires writer")
    offset, end = integer(request, "offset", minimum=0, maximum=_MAX_OFFSET), flag(request, "end")
    content = await bodies.read(request)
    await ownership.check_stdin(request, identity_of(request))
    await audit.accept(request, job=job_id(request), stdin_bytes=len(content), offset=offset, end=end)
    if writer is not None:
        await request.app[WRITERS].claim(job_id(request), writer, take=take)
    await request.app[CONTROLS].send_input(job_id(request), offset, content, end=end)
    return web.Response(status=204)
