"""`shellrunner logs`: the output of a job so far, and with `-f` the output to come.

Must not know how connections are resumed.
"""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any, Final, Literal, NamedTuple, NoReturn

import click

from shellrunner import control_characters
from shellrunner.cli import api_calls, exit_codes
from shellrunner.cli.job_selection import JobSelection
from shellrunner.cli.output_writer import OutputWriter, split_lines
from shellrunner.cli.parameters.job_ids import selected_jobs
from shellrunner.cli.parameters.number_types import WholeNumber
from shellrunner.cli.ui import formatting
from shellrunner.cli.ui.ansi import Styler
from shellrunner.cli.ui.console import Console
from shellrunner.cli.ui.table import terminal_width
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

_MAX_LINES: Final = 10**15
_MATCH_STYLE: Final = "red"
_NUMBER_STYLE: Final = "green"
Stream = Literal["stdout", "stderr"]


class _Options(NamedTuple):
    """What of each job is printed, and how."""

    follow: bool
    lines: int | None
    start: int | None
    attempt: int | None
    timestamps: bool
    raw: bool
    only: Stream | None
    line: int | None
    find: str | None
    match_case: bool
    dividers: bool | None

    def check(self) -> None:
        """Check that the options can be combined.

        Raises:
            click.UsageError: they cannot.
        """
        if self.start is not None and (self.lines is not None or (self.timestamps and self.only)):
            other = "--lines" if self.lines is not None else "--timestamps for one stream"
            raise click.UsageError(f"--from cannot be combined with {other}")
        if self.attempt is not None and (self.start is not None or self.lines is not None or self.follow):
            raise click.UsageError("--attempt cannot be combined with --from, --lines or --follow")
        if self.line is not None and (self.start, self.lines, self.attempt) != (None, None, None):
            raise click.UsageError("--from-line cannot be combined with --from, --lines or --attempt")
        if self.line is not None and self.timestamps and self.only:
            raise click.UsageError("--from-line cannot be combined with --timestamps for one stream")
        others = (self.start, self.lines, self.attempt, self.line, self.follow or None, self.timestamps or None)
        if self.find is not None and others != (None,) * len(others):
            raise click.UsageError("--find can be combined with --match-case, --stdout and --stderr only")
        if self.match_case and self.find is None:
            raise click.UsageError("--match-case requires --find")


@click.command()
@selected_jobs(bulk="Print the output of")
@click.option("-f", "--follow", is_flag=True, help="Continue until the job is done.")
@click.option(
    "-n", "--lines", "--tail", "lines", type=WholeNumber(0, _MAX_LINES), metavar="N", help="Only the last N lines."
)
@click.option("--from", "start", type=WholeNumber(0, _MAX_LINES), metavar="BYTE", help="Skip this many bytes.")
@click.option("--from-line", "line", type=WholeNumber(1, _MAX_LINES), metavar="N", help="Begin with this line.")
@click.option("--find", metavar="TEXT", help="Only the lines with this text, numbered, in any case.")
@click.option("--match-case", is_flag=True, help="Find the text with its upper and lower case only.")
@click.option("--attempt", type=WholeNumber(1), metavar="N", help="Only the output of this attempt.")
@click.option("-t", "--timestamps", is_flag=True, help="Prefix each line with the time when it was read.")
@click.option("--raw", is_flag=True, help="Write everything to a terminal, also what acts on it beyond its screen.")
@click.option(
    "--dividers/--no-dividers",
    default=None,
    help="Show on standard error where an attempt, or the job, ended (by default on a terminal).",
)
@click.option("--stdout", "only", flag_value="stdout", help="Only the standard output of the job.")
@click.option("--stderr", "only", flag_value="stderr", help="Only the standard error of the job.")
@api_calls.server_option
def logs(jobs: JobSelection, server: str | None, **given: Any) -> NoReturn:
    """Print the output of a job: its standard output to standard output, its standard error to standard error.

    Without ID it is the last job. If there are several jobs, a line before the output of each names it. --from counts
    bytes of both streams in the order of their arrival, or of one stream with --stdout or --stderr. The exit code is
    1 if output is missing: beyond its limit, on a full disk, or in a damaged file; with --find, if no line has the
    text.

    On a terminal, colours and moves of the cursor are kept, and what acts beyond the screen is removed: titles, the
    clipboard, links, questions that the terminal would answer, and modes of keyboard and mouse. Lines of a job whose
    own terminal is wider than this one are cut, so that progress bars keep their place.
    """
    console, options = Console(), _Options(**given)
    options.check()
    retry_for = api_calls.RETRY_FOR_LONG if options.follow else api_calls.RETRY_FOR
    retry_first_for = api_calls.RETRY_FIRST_FOR if options.follow else 0.0
    api_calls.run_with_client(
        server, partial(_print_all, jobs, options, console), console, concurrent=options.follow, retry_for=retry_for,
        retry_first_for=retry_first_for,
    )  # fmt: skip


async def _print_all(jobs: JobSelection, options: _Options, console: Console, client: Client) -> int:
    ids = await jobs.resolve(client)

    async def print_job(job_id: int) -> int:
        if len(ids) > 1:
            job = await client.job(job_id)
            blank = "" if job_id == ids[0] else "\n"
            await console.print_line(f"{blank}==> job {job_id}: {control_characters.escape(job['command'])} <==")
        return await _print_job(job_id, options, console, client)

    return max(await api_calls.for_each_job(ids, print_job, console), default=0)


async def _print_job(job: int, options: _Options, console: Console, client: Client) -> int:
    only = options.only
    if options.find is not None:
        return await _print_matches(
            client, job, options.find, match_case=options.match_case, only=only, console=console
        )
    if options.line is not None:
        found = await client.output_line(job, number=options.line, stream=only)
        options = options._replace(start=found["position"] if options.line <= found["lines"] else found["size"])
    writer = OutputWriter(
        console, only=only, timestamps=options.timestamps, is_filtered=not options.raw, has_dividers=options.dividers
    )
    if not options.raw:
        await _cut_lines(client, job, writer, console)
    try:
        if only and not await _needs_events(client, job, options, writer):
            await _write_stream(client, job, options, writer, only)
        else:
            await _LogReader(client, job, writer, only).show(options)
    finally:
        await writer.restore_terminal()
    return exit_codes.FAILED if writer.report_dropped() else 0


async def _needs_events(client: Client, job: int, options: _Options, writer: OutputWriter) -> bool:
    """Return whether one stream alone is to be read with all that the events say of it."""
    if options.timestamps or (options.follow and options.start is None):
        return True
    if not writer.has_dividers or (options.start, options.lines, options.attempt) != (None, None, None):
        return False
    return (await client.status(job))["attempt"] > 1


async def _cut_lines(client: Client, job_id: int, writer: OutputWriter, console: Console) -> None:
    """Have a terminal that is narrower than the job's cut its lines: wrapped, progress bars and screens are torn."""
    width = terminal_width()
    if width is None or not (tty := (await client.job(job_id))["tty"]):
        return
    columns = ((await client.status(job_id)).get("tty") or tty)["columns"]
    if columns > width:
        console.remark(f"the job's terminal has {columns} columns: lines are cut here, --raw wraps them")
        await writer.cut_lines()


async def _print_matches(
    client: Client, job: int, text: str, *, match_case: bool, only: Stream | None, console: Console
) -> int:
    """Print each line once, with its number; return the exit code, which is 1 if there is none."""
    styler, printed = Styler(), 0
    async for match in client.find_output(job, text, stream=only, match_case=match_case):
        if match["line"] == printed:
            continue
        printed = match["line"]
        before, found, after = (control_characters.escape(match[part]) for part in ("before", "text", "after"))
        number = styler.apply(str(printed), _NUMBER_STYLE)
        await console.print_line(f"{number}:{before}{styler.apply(found, _MATCH_STYLE)}{after}")
    return 0 if printed else exit_codes.FAILED


async def _write_stream(client: Client, job: int, options: _Options, writer: OutputWriter, only: Stream) -> None:
    """Write one stream as it is stored."""
    if options.attempt is not None:
        chunks: AsyncIterator[bytes] = getattr(client, only)(job, attempt=options.attempt)
    else:
        chunks = client.output(job, stream=only, tail=options.lines, start=options.start or 0, follow=options.follow)
    async for chunk in chunks:
        await writer.write_bytes(only, chunk)
    await _record_missing(client, job, options.attempt, writer)


async def _record_missing(client: Client, job: int, attempt: int | None, writer: OutputWriter) -> None:
    """Record what is missing of the output of a job that is done: plain bytes do not show it."""
    try:
        result = await client.result(job, attempt=attempt)
    except ClientError as error:
        if error.status not in (404, 410):
            raise
        return
    writer.record_dropped(BytesDropped("stdout", result["stdout_dropped"]))
    writer.record_dropped(BytesDropped("stderr", result["stderr_dropped"]))


class _LogReader:
    def __init__(self, client: Client, job_id: int, writer: OutputWriter, only: Stream | None) -> None:
        self._client, self._job_id, self._writer, self._only = client, job_id, writer, only
        self._is_cancelling: bool | None = None  # until the first status

    async def show(self, options: _Options) -> None:
        """Write the output up to now, from a position on, its last lines or one attempt; the rest with `follow`."""
        lines = options.lines
        start = (options.start or 0) if lines is None else await self._start_of_tail(lines)
        if options.attempt is None:
            # Of a job that is done, everything is read, to the event that says how much is missing.
            follow = options.follow or (await self._client.status(self._job_id))["done"]
            current_end = await self._client.output_size(self._job_id)
        else:
            follow = False
            start, current_end = await self._attempt_bounds(options.attempt)
            await _record_missing(self._client, self._job_id, options.attempt, self._writer)
        if start >= current_end and not follow:
            return
        tail = None if lines is None or start >= current_end else _TailBuffer(lines)
        async with aclosing(self._client.follow(self._job_id, after=str(start))) as events:
            async for event in events:
                match event:
                    case OutputReceived():
                        is_attempt = options.attempt is not None
                        tail = await self._process(event, tail, current_end, is_attempt=is_attempt)
                        if int(event.id) >= current_end and not follow:
                            return
                    case BytesDropped() if options.attempt is None:
                        self._writer.record_dropped(event)
                    case _ if options.attempt is None and (message := self._divider(event)):
                        if tail:
                            tail.add_divider(message)
                        else:
                            await self._writer.divide(message)

    def _divider(self, event: Event) -> str:
        """Return what is written between two parts of the output, or behind it; empty for nothing."""
        match event:
            case AttemptEnded(end):
                return formatting.describe_attempt(end)
            case StatusChanged(status) if not status["done"]:
                was_cancelling, self._is_cancelling = self._is_cancelling, status["cancelling"]
                return "cancel requested" if status["cancelling"] and was_cancelling is False else ""
            case JobEnded(end) if end["ending"] != "exited":
                return formatting.describe_ending(self._job_id, end)
        return ""

    async def _attempt_bounds(self, number: int) -> tuple[int, int]:
        """Return the positions at which the output of an attempt begins and ends."""
        end = start = 0
        for attempt in range(1, number + 1):
            result = await self._client.result(self._job_id, attempt=attempt)
            start, end = end, end + result["stdout_bytes"] + result["stderr_bytes"]
        return start, end

    async def _start_of_tail(self, lines: int) -> int:
        """Return a position at or before the start of the last lines.

        It is exact unless the job writes meanwhile; of one stream alone the position is not known.
        """
        if self._only:
            return 0
        size = await self._client.output_size(self._job_id)
        return max(0, size - await self._client.output_size(self._job_id, tail=lines))

    async def _process(
        self, output: OutputReceived, tail: "_TailBuffer | None", current_end: int, *, is_attempt: bool
    ) -> "_TailBuffer | None":
        """Write the output, or buffer it until `current_end` is reached; return the buffer while it is in use."""
        if is_attempt and (excess := int(output.id) - current_end) > 0:  # its last event may go on in the next one
            output = output._replace(data=output.data[:-excess])
        if tail is None:
            await self._writer.write(output)
            return None
        if self._only in {None, output.stream}:
            tail.add(output)
        if int(output.id) < current_end:
            return tail
        for item in tail.items:
            if isinstance(item, str):
                await self._writer.divide(item)
            else:
                await self._writer.write(item)
        return None


class _TailBuffer:
    """The last lines of output, counted as tail(1) does: a newline at the very end begins no line.

    `items` are the lines, or what the events had of them, and dividers between them, which are no lines.
    """

    def __init__(self, max_lines: int) -> None:
        self.items: deque[OutputReceived | str] = deque()
        self._max_lines, self._newlines, self._is_midline = max_lines, 0, False

    def add(self, output: OutputReceived) -> None:
        """Append output, and drop lines from the start beyond the maximum."""
        for line in split_lines(output.data):
            self.items.append(output._replace(data=line))
            self._is_midline = not line.endswith(b"\n")
            self._newlines += not self._is_midline
            while self._newlines + self._is_midline > self._max_lines and self._drop_line():
                pass

    def add_divider(self, message: str) -> None:
        """Append a divider."""
        self.items.append(message)

    def _drop_line(self) -> bool:
        """Drop the first line; return whether any are left."""
        while self.items:
            item = self.items.popleft()
            if isinstance(item, OutputReceived) and item.data.endswith(b"\n"):
                self._newlines -= 1
                break
        return bool(self.items)
