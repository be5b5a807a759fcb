"""A table of jobs that is kept up to date on the terminal's alternate screen until Ctrl-C.

Must not know how jobs are selected, or how connections are resumed.
"""

import asyncio
import os
import shutil
import signal
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from shellrunner.cli.event_loop import TERMINATIONS, TerminationHandler, run_with_background
from shellrunner.cli.fd_io import STDOUT
from shellrunner.cli.job_query import JobQuery, JobQueryResult, fetch
from shellrunner.cli.ui.console import Console
from shellrunner.cli.ui.job_table import render_jobs
from shellrunner.client import Client

_REFRESH_INTERVAL: Final = 1.0  # seconds after which ages and durations are out of date
_MIN_FETCH_INTERVAL: Final = 0.3
_STATES: Final = ("running", "queued", "waiting")


class WatchedTable:
    """A table of the jobs that match a query; with `counts_all` the query is about all jobs that are not done."""

    def __init__(self, query: JobQuery, columns: Sequence[str] | None, console: Console, *, counts_all: bool) -> None:
        self._query, self._columns, self._console, self._counts_all = query, columns, console, counts_all
        self._changed = asyncio.Event()

    async def run(self, client: Client) -> int:
        """Keep the table up to date until Ctrl-C; return the exit code."""
        return await on_alternate_screen(run_with_background(self._redraw(client), self._listen(client)))

    async def _listen(self, client: Client) -> None:
        async for _ in client.changes():
            self._changed.set()

    async def _redraw(self, client: Client) -> None:
        while True:
            self._changed.clear()
            result = await fetch(client, self._query)
            counts = await _count_by_state(client) if self._counts_all else None
            await self._draw(result, counts)
            await asyncio.sleep(_MIN_FETCH_INTERVAL)
            while not await self._has_changed():
                await self._draw(result, counts)

    async def _has_changed(self) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(_REFRESH_INTERVAL):
                return await self._changed.wait()
        return False

    async def _draw(self, result: JobQueryResult, counts: Mapping[str, int] | None) -> None:
        lines = [cut(_summary(counts))] if counts else []
        lines += render_jobs(result.rows, self._columns).splitlines()
        max_lines = shutil.get_terminal_size().lines - 1
        if len(lines) > max_lines or result.has_more:
            shown = min(len(lines), max_lines - 1)
            jobs = shown - 2 if counts else shown - 1
            total = sum(counts.values()) if counts else len(result.rows)
            more = f"{total - jobs} more" if counts or not result.has_more else "more"
            lines = [*lines[: max(shown, 0)], cut(f"… and {more}")]
        await draw(self._console, lines)


async def draw(console: Console, lines: Sequence[str]) -> None:
    """Replace the screen by these lines, as far as it has room for them."""
    text = "".join(f"{line}\x1b[K\n" for line in lines[: max(1, shutil.get_terminal_size().lines - 1)])
    await console.write(STDOUT, f"\x1b[H{text}\x1b[J".encode(errors="replace"))


def cut(text: str) -> str:
    """Return as much of a text without styles as a line of the terminal has room for."""
    return text[: shutil.get_terminal_size().columns]


async def _count_by_state(client: Client) -> Mapping[str, int]:
    queues = (await client.queues())["queues"]
    return {state: sum(queue[state] for queue in queues) for state in _STATES}


def _summary(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in counts.items())


async def on_alternate_screen(drawing: Coroutine[Any, Any, Any]) -> int:
    """Draw until Ctrl-C, or a signal that would end this process before it has restored the screen.

    Return the exit code.
    """
    terminations = TerminationHandler((*TERMINATIONS, signal.SIGQUIT))
    with _alternate_screen(), terminations.installed():
        try:
            await drawing
        except asyncio.CancelledError:
            if terminations.uncancel():
                return terminations.exit_code
    return 0


@contextmanager
def _alternate_screen() -> Iterator[None]:
    """Use the alternate screen of xterm(1) without a cursor, and restore the screen as it was."""
    os.write(STDOUT, b"\x1b[?1049h\x1b[?25l\x1b[H")
    try:
        yield
    finally:
        with suppress(OSError):
            os.write(STDOUT, b"\x1b[?25h\x1b[?1049l")
