"""This terminal attached to a job's: its output is shown here, keys are typed there, and it has this one's size.

     keys ──> detach? ──> queue ──> typed while the request before is under way ──> POST /stdin
     SIGWINCH ────────────────────────────────────────────────────────────────────> POST /tty
     terminal <── resumed to the byte when the connection breaks, or the service restarts <── GET /events

One of the terminals that are attached types, and gives the job its size; the others watch. Must not know HTTP.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from shellrunner.cli import event_loop
from shellrunner.cli.event_loop import TERMINATIONS, TerminationHandler
from shellrunner.cli.fd_io import STDIN, STDOUT
from shellrunner.cli.foreground import job_ending
from shellrunner.cli.terminal import status_overlay, stop_key
from shellrunner.cli.terminal.detach_key import DetachKey
from shellrunner.cli.terminal.keyboard import Detached, Keyboard
from shellrunner.cli.terminal.modes import WRAP_LINES, TerminalModes
from shellrunner.cli.terminal.raw_mode import RawMode, terminal_size
from shellrunner.cli.terminal.replay import Replay
from shellrunner.cli.terminal.status_overlay import StatusOverlay
from shellrunner.cli.ui import formatting
from shellrunner.cli.ui.console import Console
from shellrunner.cli.ui.terminal_filter import CUT_LINES, TerminalFilter
from shellrunner.client import AttemptEnded, Client, ClientError, Event, JobEnded, OutputReceived, StatusChanged
from shellrunner.errors import ShellrunnerError

_REDRAW_PAUSE: Final = 0.2  # seconds for a program to notice another size, before it gets its own again
_DELETED: Final = (404, 410)
# The job has just ended, has no terminal, or this client may not change it: the size stays as it is.
_UNCHANGEABLE: Final = ("not-running", "no-terminal", "command-not-allowed", "insufficient-scope", "not-yours")


class AttachOptions(NamedTuple):
    """How a terminal is attached: how it leaves, whether it only watches, and whether it replaces the writer.

    `size` is that of the job's terminal, if it is known, in rows and columns.
    """

    detach_key: DetachKey
    size: tuple[int, int] | None = None
    read_only: bool = False
    take: bool = False


class Attachment:
    """A terminal and the job to which it is attached."""

    def __init__(
        self, client: Client, console: Console, job_id: int, options: AttachOptions, replay: Replay | None = None
    ) -> None:
        """Show the job from its start, or after what was before."""
        self._client, self._console, self._job_id, self._options = client, console, job_id, options
        self._replay = replay
        self._name = f"cli-{os.urandom(8).hex()}"
        self._keyboard = Keyboard(client, job_id, self._name, options.detach_key, read_only=options.read_only)
        self._raw = RawMode(STDIN)
        self._modes = replay.modes if replay else TerminalModes()
        self._filter = TerminalFilter(is_full_screen=True) if options.read_only else None
        self._overlay = StatusOverlay(self._modes, self._request_redraw)
        self._job_size = options.size
        self._must_redraw = self._has_leftovers = self._is_new_attempt = False
        self._running, self._fit_requested = asyncio.Event(), asyncio.Event()

    async def run(self) -> int:
        """Show the job until it is done or the user leaves; return the exit code. The terminal is then as it was."""
        signals = TerminationHandler((*TERMINATIONS, signal.SIGINT))  # the last one until the terminal is raw
        self._must_redraw = self._replay is not None
        try:
            with signals.installed(), self._size_changes():
                if self._options.detach_key.name:
                    self._console.report(f"job {self._job_id}: {self._options.detach_key.name} detaches")
                try:
                    return await event_loop.run_with_background(
                        self._follow(), self._read_keys(), self._type_keys(), self._keep_size(), self._undo_stops()
                    )
                finally:
                    self._leave()
        except Detached:
            self._console.report(self._continues_message)
            return 0
        except asyncio.CancelledError:
            if not signals.uncancel():
                raise
            self._console.report(self._continues_message, required=True)
            return signals.exit_code
        except ShellrunnerError as error:
            if not isinstance(error, ClientError) or error.status not in _DELETED:
                error.add_note(self._continues_message)
            raise

    # The screen

    async def _follow(self) -> int:
        self._console.progress.set_activity(f"job {self._job_id} is queued")
        position = str(self._replay.position) if self._replay else ""
        async for event in self._client.follow(self._job_id, after=position, writer=self._name):
            if isinstance(event, JobEnded):
                self._leave()
                return await job_ending.report(
                    self._client, self._console, self._job_id, event.end, has_leftovers=self._has_leftovers
                )
            await self._show(event)
        raise AssertionError("the stream of a job ends with JobEnded")

    async def _show(self, event: Event) -> None:
        match event:
            case OutputReceived():
                self._enter()
                self._modes.feed(event.data)
                await self._console.write(STDOUT, self._filter.feed(event.data) if self._filter else event.data)
            case AttemptEnded(end):
                await self._begin_attempt(formatting.describe_attempt(end))
            case StatusChanged(status):
                self._has_leftovers = bool(status.get("leftovers_count"))
                if size := status.get("tty"):  # None: it does not run, or its keeper was only just found again
                    self._job_size = size["rows"], size["columns"]
                    if self._is_new_attempt:
                        self._is_new_attempt = False
                        self._fit_requested.set()
                if status["state"] == "running" and not self._running.is_set():
                    await self._begin()
                elif not (status["done"] or self._running.is_set()):
                    self._console.progress.set_activity(f"job {self._job_id} {formatting.describe_state(status)}")

    async def _begin(self) -> None:
        """Become the writer of the job, which runs now, unless another terminal is; then show what was before."""
        self._enter()
        self._running.set()
        refusals: list[str] = []
        if await self._keyboard.claim(refusals.append, take=self._options.take):
            self._fit_requested.set()
            await self._draw(self._replay)
        else:
            refusals += await self._watch_other_size()
            await self._draw(self._replay)
            for refusal in refusals:
                self._overlay.report(refusal)

    async def _begin_attempt(self, message: str) -> None:
        """Bring the terminal back to how it was: the next attempt has a new one, of the size that was submitted."""
        if self._raw.is_entered:
            await self._write(self._modes.leave())
            self._overlay.report(message)
            self._is_new_attempt = True

    async def _watch_other_size(self) -> list[str]:
        """Cut lines that are longer than this terminal's; return the remark on another size."""
        if self._job_size is None or self._job_size == terminal_size(STDOUT):
            return []
        rows, columns = self._job_size
        if columns > terminal_size(STDOUT)[1]:
            await self._write(CUT_LINES)
        return [f"the job's terminal has {rows} rows and {columns} columns"]

    async def _draw(self, replay: Replay | None) -> None:
        if replay:
            await self._console.write(STDOUT, replay.drawn)
            await self._console.write(STDOUT, b"" if self._options.read_only else replay.modes.enter_input())

    async def _write(self, sequence: bytes) -> None:
        """Change the terminal itself, until it is left."""
        self._modes.feed(sequence)
        await self._console.write(STDOUT, sequence)

    def _enter(self) -> None:
        if not self._raw.is_entered:
            self._console.progress.set_activity("")
            self._raw.enter()
            self._console.progress.show_on(self._overlay)

    def _leave(self) -> None:
        """Bring the terminal back to how it was."""
        if self._raw.is_entered:
            self._console.progress.show_on(None)
            with contextlib.suppress(OSError):  # it was closed
                os.write(STDOUT, self._modes.leave())
            self._raw.leave()

    # Keys

    async def _read_keys(self) -> None:
        await self._running.wait()  # until then, Ctrl-C is a signal
        await self._keyboard.read()

    async def _type_keys(self) -> None:
        await self._keyboard.type(self._on_refused, self._on_granted)

    async def _on_granted(self) -> None:
        await self._write(WRAP_LINES)
        self._request_redraw()

    def _on_refused(self, reason: str) -> None:
        if reason:
            self._overlay.report(reason)
        else:
            status_overlay.alert()

    async def _undo_stops(self) -> None:
        while True:
            await self._keyboard.stop_typed.wait()
            self._keyboard.stop_typed.clear()
            if await stop_key.continue_stopped(self._client, self._job_id):
                self._overlay.report("Ctrl-Z stopped the command, and no shell could resume it: it was continued")

    # The size

    @contextmanager
    def _size_changes(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGWINCH, self._fit_requested.set)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGWINCH)

    def _request_redraw(self) -> None:
        self._must_redraw = True
        self._fit_requested.set()

    async def _keep_size(self) -> None:
        while True:
            await self._fit_requested.wait()
            self._fit_requested.clear()
            if self._keyboard.is_writer:
                await self._fit(terminal_size(STDOUT))

    async def _fit(self, size: tuple[int, int]) -> None:
        """Give the job's terminal the size of this one, and have its programs draw again if that is wanted.

        They draw when the size changes, and many only if it is not as before: then it is another one for a moment.
        """
        must_redraw, self._must_redraw = self._must_redraw, False
        if must_redraw and self._job_size == size:
            rows, columns = size
            await self._resize((rows, columns - 1 if columns > 1 else columns + 1))
            await asyncio.sleep(_REDRAW_PAUSE)
        if self._job_size != size:
            await self._resize(size)

    async def _resize(self, size: tuple[int, int]) -> None:
        try:
            await self._client.resize(self._job_id, *size)
        except ClientError as error:
            if error.kind not in _UNCHANGEABLE:
                raise
        else:
            self._job_size = size

    @property
    def _continues_message(self) -> str:
        job_id = self._job_id
        return f"job {job_id} continues: use `shellrunner attach {job_id}` or `shellrunner cancel {job_id}`"
