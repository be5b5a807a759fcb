"""A table of jobs that is kept up to date on the terminal's alternate screen until Ctrl-C.

Must not know how jobs are selected, or how connections are resumed.
"""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from shellrunner.cli.event_loop import run_with_background
from shellrunner.cli.fd_io import STDOUT
from shellrunner.cli.job_query import JobQuery, JobQueryResult, fetch
from shellrunner.cli.ui.console import Console
from shellrunner.cli.ui.job_table import render_jobs
from shellrunner.client import Client

_REFRESH_INTERVAL: Final = 1.0  # seconds after which ages and durations are out of date
_MIN_FETCH_INTERVAL: Final = 0.3


async def watch_jobs(query: JobQuery, console: Console, client: Client) -> int:
    """Keep the table up to date until Ctrl-C, which cancels this."""
    changed = asyncio.Event()
    with suppress(asyncio.CancelledError), _alternate_screen():
        await run_with_background(_redraw(query, console, client, changed), _listen(client, changed))
    return 0


async def _listen(client: Client, changed: asyncio.Event) -> None:
    async for _ in client.changes():
        changed.set()


async def _redraw(query: JobQuery, console: Console, client: Client, changed: asyncio.Event) -> None:
    while True:
        changed.clear()
        result = await fetch(client, query)
        await _draw(result, console)
        await asyncio.sleep(_MIN_FETCH_INTERVAL)
        while not await _has_changed(changed):
            await _draw(result, console)


async def _has_changed(changed: asyncio.Event) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(_REFRESH_INTERVAL):
            return await changed.wait()
    return False


async def _draw(result: JobQueryResult, console: Console) -> None:
    lines = render_jobs(result.rows).splitlines()
    max_lines = os.get_terminal_size(STDOUT).lines - 1
    if len(lines) > max_lines > 0:
        lines = [*lines[: max_lines - 1], f"… and {len(lines) - max_lines + 1} more"]
    text = "".join(f"{line}\x1b[K\n" for line in lines)
    await console.write(STDOUT, f"\x1b[H{text}\x1b[J".encode(errors="replace"))


@contextmanager
def _alternate_screen() -> Iterator[None]:
    """Use the alternate screen of xterm(1) without a cursor, and restore the screen as it was."""
    os.write(STDOUT, b"\x1b[?1049h\x1b[?25l\x1b[H")
    try:
        yield
    finally:
        with suppress(OSError):
            os.write(STDOUT, b"\x1b[?25h\x1b[?1049l")
