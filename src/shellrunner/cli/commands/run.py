"""`shellrunner run`: have a command run as if it ran here: its output, its input, its exit code, and Ctrl-C.

Owned by the call. Must not know how connections are kept.
"""

import asyncio
import json
from functools import partial
from typing import Any, Final, NoReturn

import click

from shellrunner.cli import api_calls, exit_codes, stdin_source
from shellrunner.cli.commands import submit
from shellrunner.cli.output_writer import OutputWriter
from shellrunner.cli.stdin_source import StdinSource
from shellrunner.cli.ui import formatting, prompt
from shellrunner.cli.ui.console import Console, OutputClosed
from shellrunner.cli.ui.prompt import Interrupts
from shellrunner.client import BytesDropped, Client, ClientError, Event, JobEnded, OutputReceived, StatusChanged
from shellrunner.errors import ShellrunnerError

_QUESTION: Final = "\nCancel job {}, or leave it running? [c/L] "
_NO_MORE: Final = (404, 410)  # somebody has deleted it
_NEEDED: Final = (exit_codes.OTHERWISE, exit_codes.NOT_STARTED)  # codes that alone do not tell what happened


@click.command(cls=submit.JobCommand, context_settings=submit.context)
@submit.options
@click.option("-d", "--detach", is_flag=True, help="Do not wait: print the job's number, and go.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing that the exit code says.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON at the end, instead of the output.")
def run(detach: bool, quiet: bool, as_json: bool, stdin: str | None, server: str | None, **told: Any) -> NoReturn:
    """Have COMMAND run, show what it writes as it does, and exit with its code.

    One word is a line for the shell, several are run as they are. Without a code of its own: 128+N ended by signal N,
    126 it could not be started, 125 the service could not be reached or refused, 124 it took longer than its timeout,
    123 anything else, 130 after Ctrl-C, which asks whether to cancel it or leave it running.
    """
    if detach:
        submit.detached(stdin, server, as_json=as_json, **told)
    terminal = Console(quiet=quiet)
    with stdin_source.opened(stdin, at_once=True) as source:
        doing = partial(_run, submit.spec(**told, stdin=source), source, terminal, as_json=as_json)
        api_calls.work(server, doing, terminal, patience=api_calls.LONG, failed=exit_codes.REFUSED)


async def _run(
    asked: dict[str, Any], source: StdinSource, terminal: Console, client: Client, *, as_json: bool
) -> int:
    terminal.progress.waits_for("the job is submitted")
    job = await client.submit(**asked)
    attendance = _Attendance(client, terminal, job["job_id"], shows=not as_json)
    code = await attendance.attend(source)
    if as_json and code != exit_codes.INTERRUPTED:
        await terminal.print(json.dumps(await client.result(job["job_id"]), ensure_ascii=False))
    return code


class _Left(Exception):
    """Whoever waited does so no more."""


class _Attendance:
    """Somebody who waits for one job: shows what it writes, gives it input, and minds Ctrl-C."""

    def __init__(self, client: Client, terminal: Console, job_id: int, *, shows: bool) -> None:
        self._client, self._terminal, self._job_id = client, terminal, job_id
        self._pouring = OutputWriter(terminal) if shows else None
        self._asking = asyncio.Lock()  # while a question is on the terminal, it is nobody else's

    async def attend(self, source: StdinSource) -> int:
        """Stay until the end, or until whoever waits has had enough; return the exit code."""
        interrupts = Interrupts()
        try:
            with interrupts.has_followers():
                code = await api_calls.alongside(self._follow(), self._give(source), self._mind(interrupts))
        except _Left:
            return self._leave()
        except asyncio.CancelledError:
            if not interrupts.forgive():
                raise
            return self._leave()
        except OutputClosed:
            self._terminal.say(self._remains)
            raise
        except ShellrunnerError as error:
            if not isinstance(error, ClientError) or error.status not in _NO_MORE:
                error.add_note(self._remains)
            raise
        return exit_codes.INTERRUPTED if interrupts.count else code

    async def _follow(self) -> int:
        self._waits("is queued")
        async for event in self._client.follow(self._job_id):
            async with self._asking:
                if isinstance(event, JobEnded):
                    return await self._ended(event)
                await self._show(event)
        raise AssertionError("a stream ends with its end")

    async def _show(self, event: Event) -> None:
        match event:
            case OutputReceived() if self._pouring:
                self._terminal.progress.waits_for("")
                await self._pouring.pour(event)
            case StatusChanged(status) if status["cancelling"]:
                self._waits("is being ended")
            case StatusChanged(status):
                self._waits({"waiting": "waits for its turn", "running": "runs"}.get(status["state"], "is queued"))
            case BytesDropped() if self._pouring:
                self._pouring.lose(event)

    async def _ended(self, event: JobEnded) -> int:
        end, code = event.end, exit_codes.of(event.end)
        self._terminal.progress.waits_for("")
        if self._pouring:
            self._pouring.say_lost()
        if end["ending"] != "exited":
            self._terminal.say(formatting.ended(self._job_id, end, await self._detail()), needed=code in _NEEDED)
        return code

    async def _detail(self) -> str | None:
        try:
            return (await self._client.result(self._job_id))["detail"]
        except ClientError:  # deleted at once
            return None

    async def _give(self, source: StdinSource) -> None:
        if source.is_streamed:
            await stdin_source.feed(self._client, self._job_id, source, self._asking)

    async def _mind(self, interrupts: Interrupts) -> None:
        await interrupts.first()
        async with self._asking:
            with self._terminal.held():
                answer = await prompt.answer(_QUESTION.format(self._job_id))
            if answer is None or not "cancel".startswith(answer or "-"):
                raise _Left
            await self._cancel()

    async def _cancel(self) -> None:
        try:
            await self._client.cancel(self._job_id)
        except ClientError as error:
            if error.kind != "already-done":
                raise

    def _leave(self) -> int:
        self._terminal.say(self._remains)
        return exit_codes.INTERRUPTED

    def _waits(self, how: str) -> None:
        self._terminal.progress.waits_for(f"job {self._job_id} {how}")

    @property
    def _remains(self) -> str:
        return f"job {self._job_id} goes on: shellrunner logs -f {self._job_id}, or shellrunner cancel {self._job_id}"
