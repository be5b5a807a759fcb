"""`shellrunner ps`: list jobs as a table, as ids or as JSON, or as a table that is kept up to date.

Must not know how connections are resumed.
"""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final, NoReturn

import click

from shellrunner.cli import api_calls
from shellrunner.cli.fd_io import STDOUT
from shellrunner.cli.job_query import Filters, JobQuery, JobQueryResult, fetch, filter_option, filter_query
from shellrunner.cli.number_types import WholeNumber
from shellrunner.cli.ui.console import Console
from shellrunner.cli.ui.job_table import render_jobs
from shellrunner.client import Client

_DEFAULT_LIMIT: Final = 100
_UNFINISHED: Final = "waiting,queued,running"
_FILTERS_OF_DONE_JOBS: Final = frozenset({"state", "ending", "exit_code", "completed_after", "completed_before"})

_REFRESH_INTERVAL: Final = 1.0  # seconds after which ages and durations are out of date
_MIN_FETCH_INTERVAL: Final = 0.3


@click.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Include jobs that are done.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the ids.")
@click.option(
    "-n",
    "--limit",
    type=WholeNumber(0),
    default=_DEFAULT_LIMIT,
    show_default=True,
    help="Maximum number of jobs to list (0 = all).",
)
@click.option("--sort", metavar="KEYS", help="Sort by created, priority, queue; descending with -, as in -created.")
@filter_option
@click.option("--json", "as_json", is_flag=True, help="Print each job with its status as a line of JSON.")
@click.option("--watch", is_flag=True, help="Keep the table up to date until Ctrl-C.")
@api_calls.server_option
def ps(
    *, everything: bool, quiet: bool, limit: int, sort: str | None, filters: Filters, as_json: bool, watch: bool,
    server: str | None,
) -> NoReturn:  # fmt: skip
    """List the jobs that are not done, newest first."""
    query = _job_query(filters, sort, limit, everything=everything)
    console = Console()
    if watch:
        _check_watch(quiet=quiet, as_json=as_json)
        action = partial(_watch, query, console)
        api_calls.run_with_client(server, action, console, retry_for=api_calls.RETRY_FOR_LONG)
    api_calls.run_with_client(server, partial(_list, query, console, quiet=quiet, as_json=as_json), console)


def _job_query(filters: Filters, sort: str | None, limit: int, *, everything: bool) -> JobQuery:
    parameters: dict[str, Any] = filter_query(filters)
    if not everything and not _FILTERS_OF_DONE_JOBS & parameters.keys():
        parameters["state"] = _UNFINISHED
    if sort:
        parameters["sort"] = sort
    return JobQuery(parameters, limit)


async def _list(query: JobQuery, console: Console, client: Client, *, quiet: bool, as_json: bool) -> int:
    result = await fetch(client, query)
    if quiet:
        for row in result.rows:
            await console.print_line(str(row["job_id"]))
    elif as_json:
        for row in result.rows:
            await console.print_json(row)
    else:
        await console.print_line(render_jobs(result.rows))
    if result.has_more:
        console.report(f"more than {len(result.rows)} jobs match: use -n 0 to list all")
    return 0


def _check_watch(*, quiet: bool, as_json: bool) -> None:
    if quiet or as_json:
        raise click.UsageError("--watch cannot be combined with --quiet or --json")
    if not os.isatty(STDOUT) or os.environ.get("TERM", "dumb") == "dumb":
        raise click.UsageError("--watch requires a terminal")


async def _watch(query: JobQuery, console: Console, client: Client) -> int:
    """Keep the table up to date until Ctrl-C, which cancels this."""
    changed = asyncio.Event()
    with suppress(asyncio.CancelledError), _alternate_screen():
        await api_calls.run_with_background(_redraw(query, console, client, changed), _listen(client, changed))
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
