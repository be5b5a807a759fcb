"""A job that `run` has in the foreground: its output, its input, its exit code, and Ctrl-C.

Must not know how connections are resumed.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from shellrunner.cli import event_loop, exit_codes, stdin_source
from shellrunner.cli.event_loop import InterruptHandler, TerminationHandler
from shellrunner.cli.foreground import job_ending, local_environment
from shellrunner.cli.listing.job_printer import JobPrinter
from shellrunner.cli.output_writer import OutputWriter
from shellrunner.cli.stdin_source import StdinSource
from shellrunner.cli.ui import formatting, prompt
from shellrunner.cli.ui.console import Console, OutputClosed, TerminalClosed
from shellrunner.cli.ui.output_format import OutputFormat
from shellrunner.client import (
    AttemptEnded,
    BytesDropped,
    Client,
    ClientError,
    Event,
    JobEnded,
    OutputReceived,
    StatusChanged,
)
from shellrunner.errors import ShellrunnerError

_QUESTION: Final = "\nCancel job {}, or leave it running? [c/L] "
_DELETED: Final = (404, 410)


class ForegroundOptions(NamedTuple):
    """How a job is run in the foreground.

    output: the form in which its result is printed at the end, instead of its output. keep: it continues when its
    output has no reader any more. clean: nothing of the local environment is sent along.
    """

    output: OutputFormat | None
    keep: bool
    clean: bool


async def run_job(
    submission: Mapping[str, Any], source: StdinSource, console: Console, options: ForegroundOptions, client: Client
) -> int:
    """Submit a job and show it until it is done or the user leaves; return the exit code."""
    console.progress.set_activity("submitting the job")
    job = await local_environment.submit(client, submission, console, clean=options.clean)
    foreground = _ForegroundJob(client, console, job["job_id"], options)
    code = await foreground.run(source)
    if foreground.is_done and options.output:
        printer = JobPrinter(options.output, console, client, is_list=False)
        await printer.add(job["job_id"], await client.result(job["job_id"]))
        await printer.finish()
    return code


class _Detached(Exception):
    """The user chose to leave the job running."""


class _ForegroundJob:
    """A job in the foreground: shows its output, sends its input, and handles signals; `is_done` at its end."""

    def __init__(self, client: Client, console: Console, job_id: int, options: ForegroundOptions) -> None:
        self._client, self._console, self._job_id, self._options = client, console, job_id, options
        self._writer = OutputWriter(console) if not options.output else None
        self.is_done = False
        self._has_leftovers = False
        self._terminal_lock = asyncio.Lock()  # held while a question is on the terminal

    async def run(self, source: StdinSource) -> int:
        """Follow the job until it is done or the user leaves; return the exit code."""
        interrupts, terminations = InterruptHandler(), TerminationHandler()
        try:
            with interrupts.installed(), terminations.installed():
                code = await event_loop.run_with_background(
                    self._follow(), self._send_input(source), self._handle_interrupt(interrupts)
                )
        except _Detached:
            return self._detach()
        except asyncio.CancelledError:
            if terminations.uncancel():
                self._console.report(self._continues_message, required=True)
                return terminations.exit_code
            if not interrupts.uncancel():
                raise
            return self._detach()
        except OutputClosed as error:
            # Without a reader a command would get SIGPIPE. A terminal that is closed may be opened again.
            if self._options.keep or isinstance(error, TerminalClosed):
                self._console.report(self._continues_message)
            else:
                await self._cancel()
            raise
        except ShellrunnerError as error:
            if not isinstance(error, ClientError) or error.status not in _DELETED:
                error.add_note(self._continues_message)
            raise
        self.is_done = not interrupts.count
        return exit_codes.INTERRUPTED if interrupts.count else code

    async def _follow(self) -> int:
        self._set_activity("is queued")
        async for event in self._client.follow(self._job_id):
            async with self._terminal_lock:
                if isinstance(event, JobEnded):
                    return await self._end(event)
                await self._show(event)
        raise AssertionError("the stream of a job ends with JobEnded")

    async def _show(self, event: Event) -> None:
        match event:
            case OutputReceived() if self._writer:
                self._console.progress.set_activity("")
                await self._writer.write(event)
            case AttemptEnded(end) if self._writer:
                self._console.progress.set_activity("")
                await self._writer.divide(formatting.describe_attempt(end))
            case StatusChanged(status) if status["done"]:
                self._has_leftovers = bool(status.get("leftovers_count"))  # an older server does not know it
            case StatusChanged(status) if status["cancelling"]:
                self._set_activity("is being cancelled")
            case StatusChanged(status):
                self._set_activity(formatting.describe_state(status))
            case BytesDropped() if self._writer:
                self._writer.record_dropped(event)

    async def _end(self, event: JobEnded) -> int:
        self._console.progress.set_activity("")
        is_incomplete = self._writer is not None and self._writer.report_dropped()
        code = await job_ending.report(
            self._client, self._console, self._job_id, event.end, has_leftovers=self._has_leftovers
        )
        # What was shown is not all of the output.
        return exit_codes.OTHER_ENDING if is_incomplete and code == 0 else code

    async def _send_input(self, source: StdinSource) -> None:
        if source.is_streamed:
            await stdin_source.pipe_stdin(self._client, self._job_id, source, self._terminal_lock)

    async def _handle_interrupt(self, interrupts: InterruptHandler) -> None:
        await interrupts.wait_first()
        async with self._terminal_lock:
            with self._console.prompting():
                answer = await prompt.ask(_QUESTION.format(self._job_id))
            if answer is None or not "cancel".startswith(answer or "-"):
                raise _Detached
            await self._cancel()

    async def _cancel(self) -> None:
        try:
            await self._client.cancel(self._job_id)
        except ClientError as error:
            if error.kind != "already-done":
                raise

    def _detach(self) -> int:
        self._console.report(self._continues_message)
        return exit_codes.INTERRUPTED

    def _set_activity(self, text: str) -> None:
        self._console.progress.set_activity(f"job {self._job_id} {text}")

    @property
    def _continues_message(self) -> str:
        job_id = self._job_id
        return f"job {job_id} continues: use `shellrunner logs -f {job_id}` or `shellrunner cancel {job_id}`"
