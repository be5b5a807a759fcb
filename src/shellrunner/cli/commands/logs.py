"""`shellrunner logs`: what a job has written, and with `-f` what it goes on to write.

Owned by the call. Must not know how connections are kept.
"""

from collections import deque
from contextlib import aclosing
from typing import Final, Literal, NoReturn

import click

from shellrunner.cli import api_calls
from shellrunner.cli.job_ids import JOBS
from shellrunner.cli.output_writer import PLACES, OutputWriter, lines_of
from shellrunner.cli.ui.console import Console
from shellrunner.client import BytesDropped, Client, JobEnded, OutputReceived

_MOST: Final = 10**15
Stream = Literal["stdout", "stderr"]


@click.command()
@click.argument("job", metavar="ID", type=JOBS)
@click.option("-f", "--follow", is_flag=True, help="Go on until it is done.")
@click.option("-n", "--lines", type=click.IntRange(0, _MOST), metavar="N", help="Only its last N lines.")
@click.option("-t", "--timestamps", is_flag=True, help="Before each line, when it was read from the command.")
@click.option("--stdout", "only", flag_value="stdout", help="Only what it wrote to standard output.")
@click.option("--stderr", "only", flag_value="stderr", help="Only what it wrote to standard error.")
@api_calls.server
def logs(
    *, job: int, follow: bool, lines: int | None, timestamps: bool, only: Stream | None, server: str | None
) -> NoReturn:
    """Show what a job has written: its standard output on ours, its standard error on ours."""
    terminal = Console()

    async def show(client: Client) -> int:
        if only and not follow and not timestamps:
            async for piece in client.output(job, stream=only, tail=lines):
                await terminal.write(PLACES[only], piece)
        else:
            log = _Log(client, job, OutputWriter(terminal, only=only, timed=timestamps), only)
            await log.show(lines, follow=follow)
        return 0

    api_calls.work(server, show, terminal, patience=api_calls.LONG if follow else api_calls.BRIEFLY)


class _Log:
    def __init__(self, client: Client, job_id: int, pouring: OutputWriter, only: Stream | None) -> None:
        self._client, self._job_id, self._pouring, self._only = client, job_id, pouring, only

    async def show(self, lines: int | None, *, follow: bool) -> None:
        """Show what there is up to now, or its last lines, and then perhaps what follows."""
        begin = 0 if lines is None else await self._begin(lines)
        edge = await self._client.output_size(self._job_id)
        if begin >= edge and not follow:
            return
        last = None if lines is None or begin >= edge else _Last(lines)
        async with aclosing(self._client.follow(self._job_id, after=str(begin))) as events:
            async for event in events:
                match event:
                    case OutputReceived():
                        last = await self._take(event, last, edge)
                        if int(event.id) >= edge and not follow:
                            return
                    case BytesDropped():
                        self._pouring.lose(event)
                    case JobEnded():
                        self._pouring.say_lost()

    async def _begin(self, lines: int) -> int:
        """A place before the last lines: right there, unless it writes just now, or one stream alone is meant."""
        if self._only:
            return 0
        size = await self._client.output_size(self._job_id)
        return max(0, size - await self._client.output_size(self._job_id, tail=lines))

    async def _take(self, output: OutputReceived, last: "_Last | None", edge: int) -> "_Last | None":
        """Show it, or keep it until all that was there at the beginning is known; return what is still kept."""
        if last is None:
            await self._pouring.pour(output)
            return None
        if self._only in {None, output.stream}:
            last.take(output)
        if int(output.id) < edge:
            return last
        for line in last.lines:
            await self._pouring.pour(line)
        return None


class _Last:
    """The last lines of output, as tail(1) counts them: a newline at the very end begins no line."""

    def __init__(self, count: int) -> None:
        self.lines: deque[OutputReceived] = deque()
        self._count, self._ends = count, 0

    def take(self, output: OutputReceived) -> None:
        """Take what follows, and forget what is too far back."""
        for line in lines_of(output.data):
            self.lines.append(output._replace(data=line))
            self._ends += line.endswith(b"\n")
            while self._ends + (not self.lines[-1].data.endswith(b"\n")) > self._count and self._forget():
                pass

    def _forget(self) -> bool:
        """Forget the first line; whether anything is left."""
        while self.lines:
            if self.lines.popleft().data.endswith(b"\n"):
                self._ends -= 1
                break
        return bool(self.lines)
