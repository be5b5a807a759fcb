"""`shellrunner ps --watch`: the table of jobs as it changes, on a screen of its own that is left as it was found.

One stream of changes says when to look again. Must not know how the table is made.
"""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click

from shellrunner.cli import api_calls
from shellrunner.cli.fd_io import STDOUT
from shellrunner.cli.job_query import JobQueryResult, Query, look
from shellrunner.cli.ui.console import Console
from shellrunner.cli.ui.job_table import overview
from shellrunner.client import Client

_TICK = 1.0  # seconds after which times have changed
_PAUSE = 0.3  # seconds between two looks at least


async def watch_jobs(query: Query, terminal: Console, client: Client) -> int:
    """Show the jobs until Ctrl-C, which is how this ends."""
    if not os.isatty(STDOUT) or os.environ.get("TERM", "dumb") == "dumb":
        raise click.UsageError("--watch needs a terminal; where there is none, `wait` or --json may help")
    changed = asyncio.Event()
    with suppress(asyncio.CancelledError), _screen():
        await api_calls.alongside(_draw(query, terminal, client, changed), _listen(client, changed))
    return 0


async def _listen(client: Client, changed: asyncio.Event) -> None:
    async for _ in client.changes():
        changed.set()


async def _draw(query: Query, terminal: Console, client: Client, changed: asyncio.Event) -> None:
    while True:
        changed.clear()
        found = await look(client, query)
        await _show(found, terminal)
        await asyncio.sleep(_PAUSE)
        while not await _rings(changed):
            await _show(found, terminal)


async def _rings(changed: asyncio.Event) -> bool:
    with suppress(TimeoutError):
        return await asyncio.wait_for(changed.wait(), _TICK)
    return False


async def _show(found: JobQueryResult, terminal: Console) -> None:
    lines = overview(found.rows).splitlines()
    room = os.get_terminal_size(STDOUT).lines - 1
    if len(lines) > room > 0:
        lines = [*lines[: room - 1], f"… and {len(lines) - room + 1} more"]
    text = "".join(f"{line}\x1b[K\n" for line in lines)
    await terminal.write(STDOUT, f"\x1b[H{text}\x1b[J".encode(errors="replace"))


@contextmanager
def _screen() -> Iterator[None]:
    """xterm(1)'s other screen, without a cursor."""
    os.write(STDOUT, b"\x1b[?1049h\x1b[?25l\x1b[H")
    try:
        yield
    finally:
        with suppress(OSError):
            os.write(STDOUT, b"\x1b[?25h\x1b[?1049l")
