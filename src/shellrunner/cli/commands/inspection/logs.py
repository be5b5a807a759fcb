"""`shellrunner logs`: the output of a job so far, and with `-f` the output to come.

Must not know how connections are resumed.
"""

from collections import deque
from contextlib import aclosing
from typing import Final, Literal, NoReturn

import click

from shellrunner.cli import api_calls, exit_codes
from shellrunner.cli.output_writer import OutputWriter, split_lines
from shellrunner.cli.parameters.job_ids import JOB_ID
from shellrunner.cli.parameters.number_types import WholeNumber
from shellrunner.cli.ui.console import Console
from shellrunner.client import BytesDropped, Client, ClientError, OutputReceived

_MAX_LINES: Final = 10**15
Stream = Literal["stdout", "stderr"]


@click.command()
@click.argument("job", metavar="ID", type=JOB_ID)
@click.option("-f", "--follow", is_flag=True, help="Continue until the job is done.")
@click.option("-n", "--lines", type=WholeNumber(0, _MAX_LINES), metavar="N", help="Only the last N lines.")
@click.option("--from", "start", type=WholeNumber(0, _MAX_LINES), metavar="BYTE", help="Skip this many bytes.")
@click.option("-t", "--timestamps", is_flag=True, help="Prefix each line with the time when it was read.")
@click.option("--raw", is_flag=True, help="Write everything to a terminal, also what acts on it beyond its screen.")
@click.option("--stdout", "only", flag_value="stdout", help="Only the standard output of the job.")
@click.option("--stderr", "only", flag_value="stderr", help="Only the standard error of the job.")
@api_calls.server_option
def logs(
    *,
    job: int,
    follow: bool,
    lines: int | None,
    start: int | None,
    timestamps: bool,
    raw: bool,
    only: Stream | None,
    server: str | None,
) -> NoReturn:
    """Print the output of a job: its standard output to standard output, its standard error to standard error.

    With --from, bytes of both are counted as they arrived, or with --stdout or --stderr those of this one. The exit
    code is 1 if output is missing: beyond its limit, on a full disk, or in a damaged file.

    On a terminal, colours and moves of the cursor are kept, and what acts beyond the screen is removed: titles, the
    clipboard, links, questions that the terminal would answer, and modes of keyboard and mouse.
    """
    console = Console()
    if start is not None and (lines is not None or (timestamps and only)):
        other = "--lines" if lines is not None else "--timestamps for one stream"
        raise click.UsageError(f"--from cannot be combined with {other}")

    async def show(client: Client) -> int:
        writer = OutputWriter(console, only=only, timestamps=timestamps, is_filtered=not raw)
        try:
            return await write_output(client, writer)
        finally:
            await writer.restore_terminal()

    async def write_output(client: Client, writer: OutputWriter) -> int:
        if only and not timestamps and not (follow and start is None):
            chunks = client.output(job, stream=only, tail=lines, start=start or 0, follow=follow)
            async for chunk in chunks:
                await writer.write_bytes(only, chunk)
            await _record_missing(client, job, writer)
        else:
            await _LogReader(client, job, writer, only).show(lines, start or 0, follow=follow)
        return exit_codes.FAILED if writer.report_dropped() else 0

    retry_for = api_calls.RETRY_FOR_LONG if follow else api_calls.RETRY_FOR
    retry_first_for = api_calls.RETRY_FIRST_FOR if follow else 0.0
    api_calls.run_with_client(
        server, show, console, concurrent=follow, retry_for=retry_for, retry_first_for=retry_first_for
    )


async def _record_missing(client: Client, job: int, writer: OutputWriter) -> None:
    """Record what is missing of the output of a job that is done: plain bytes do not show it."""
    try:
        result = await client.result(job)
    except ClientError as error:
        if error.status not in (404, 410):
            raise
        return
    writer.record_dropped(BytesDropped("stdout", result["stdout_dropped"]))
    writer.record_dropped(BytesDropped("stderr", result["stderr_dropped"]))


class _LogReader:
    def __init__(self, client: Client, job_id: int, writer: OutputWriter, only: Stream | None) -> None:
        self._client, self._job_id, self._writer, self._only = client, job_id, writer, only

    async def show(self, lines: int | None, start: int, *, follow: bool) -> None:
        """Write the output up to now from `start` on, or its last `lines`, and with `follow` the rest."""
        # Of a job that is done, everything is read, to the event that says how much is missing.
        follow = follow or (await self._client.status(self._job_id))["done"]
        start = start if lines is None else await self._start_of_tail(lines)
        current_end = await self._client.output_size(self._job_id)
        if start >= current_end and not follow:
            return
        tail = None if lines is None or start >= current_end else _TailBuffer(lines)
        async with aclosing(self._client.follow(self._job_id, after=str(start))) as events:
            async for event in events:
                match event:
                    case OutputReceived():
                        tail = await self._process(event, tail, current_end)
                        if int(event.id) >= current_end and not follow:
                            return
                    case BytesDropped():
                        self._writer.record_dropped(event)

    async def _start_of_tail(self, lines: int) -> int:
        """Return a position at or before the start of the last lines.

        It is exact unless the job writes meanwhile; of one stream alone the position is not known.
        """
        if self._only:
            return 0
        size = await self._client.output_size(self._job_id)
        return max(0, size - await self._client.output_size(self._job_id, tail=lines))

    async def _process(
        self, output: OutputReceived, tail: "_TailBuffer | None", current_end: int
    ) -> "_TailBuffer | None":
        """Write the output, or buffer it until `current_end` is reached; return the buffer while it is in use."""
        if tail is None:
            await self._writer.write(output)
            return None
        if self._only in {None, output.stream}:
            tail.add(output)
        if int(output.id) < current_end:
            return tail
        for line in tail.lines:
            await self._writer.write(line)
        return None


class _TailBuffer:
    """The last lines of output, counted as tail(1) does: a newline at the very end begins no line."""

    def __init__(self, max_lines: int) -> None:
        self.lines: deque[OutputReceived] = deque()
        self._max_lines, self._newlines = max_lines, 0

    def add(self, output: OutputReceived) -> None:
        """Append output, and drop lines from the start beyond the maximum."""
        for line in split_lines(output.data):
            self.lines.append(output._replace(data=line))
            self._newlines += line.endswith(b"\n")
            while self._line_count() > self._max_lines and self._drop_line():
                pass

    def _line_count(self) -> int:
        return self._newlines + (not self.lines[-1].data.endswith(b"\n"))

    def _drop_line(self) -> bool:
        """Drop the first line; return whether any are left."""
        while self.lines:
            if self.lines.popleft().data.endswith(b"\n"):
                self._newlines -= 1
                break
        return bool(self.lines)
