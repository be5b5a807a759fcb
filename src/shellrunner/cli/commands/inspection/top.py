"""`shellrunner top`: what the processes of running jobs use, live on a terminal."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, NoReturn

import click

from shellrunner.cli import api_calls
from shellrunner.cli.fd_io import STDOUT
from shellrunner.cli.parameters.argument_types import DURATION
from shellrunner.cli.parameters.output_options import output_option
from shellrunner.cli.ui import formatting
from shellrunner.cli.ui.console import Console
from shellrunner.cli.ui.output_format import TABLE, OutputFormat
from shellrunner.cli.ui.table import Cell, Column, render_table
from shellrunner.client import Client

_NAME: Final = "NAME"  # of the column that is left out where no job has one
_COLUMNS: Final = (
    *(Column(heading, right=True) for heading in ("ID", "CPU", "MEMORY", "CPU TIME", "TIME", "PROCESSES")),
    Column(_NAME),
    Column("COMMAND", flexible=True),
)
_SORT_KEYS: Final = {"cpu": "cpu_share", "memory": "rss_bytes", "time": "cpu_seconds"}

Row = Mapping[str, Any]


@click.command()
@click.option("--sort", type=click.Choice([*_SORT_KEYS]), default="cpu", help="What is first (default: cpu).")
@click.option("--interval", metavar="TIME", type=DURATION, default="2", help="How often it is read (default: 2).")
@click.option("--once", is_flag=True, help="Print the table once, as where standard output is not a terminal.")
@output_option(json_help="Print each job with its usage as a line of JSON, once.")
@api_calls.server_option
def top(sort: str, interval: float, once: bool, output: OutputFormat | None, server: str | None) -> NoReturn:
    """Show what the processes of running jobs use: CPU, memory, time.

    On a terminal the table is kept up to date until Ctrl-C. 100% of CPU is one processor.
    """
    console = Console()
    output = None if output and output.kind == TABLE else output
    key = _SORT_KEYS[sort]
    if once or output or not os.isatty(STDOUT) or os.environ.get("TERM", "dumb") == "dumb":
        api_calls.run_with_client(server, partial(_print_once, key, output, console), console)
    api_calls.run_with_client(
        server, partial(_watch, key, max(interval, 0.2), console), console, concurrent=True,
        retry_for=api_calls.RETRY_FOR_LONG,
    )  # fmt: skip


async def _print_once(key: str, output: OutputFormat | None, console: Console, client: Client) -> int:
    rows = await _rows(key, client)
    if output:
        await output.print(console, rows)
    else:
        await console.print_line(_table(rows))
    return 0


async def _watch(key: str, interval: float, console: Console, client: Client) -> int:
    import asyncio  # noqa: PLC0415  it takes 30 ms

    from shellrunner.cli.listing.watched_table import cut, draw, on_alternate_screen  # noqa: PLC0415  it imports asyncio

    async def redraw() -> None:
        while True:
            rows = await _rows(key, client)
            await draw(console, [cut(_summary(rows)), *_table(rows).splitlines()])
            await asyncio.sleep(interval)

    return await on_alternate_screen(redraw())


async def _rows(key: str, client: Client) -> list[Row]:
    """Return the jobs that run, with their usage, the largest first."""
    usages = {usage["job_id"]: usage for usage in (await client.usages())["usages"]}
    statuses = {status["job_id"]: status async for status in client.statuses(state="running")}
    jobs = [job async for job in client.jobs(state="running")]
    rows: list[Row] = [
        {**job, **statuses.get(job["job_id"], {"started": None}), **usages[job["job_id"]]}
        for job in jobs
        if job["job_id"] in usages
    ]
    return sorted(rows, key=lambda row: (-row[key], row["job_id"]))


def _summary(rows: Sequence[Row]) -> str:
    share, memory = sum(row["cpu_share"] for row in rows), sum(row["rss_bytes"] for row in rows)
    jobs = formatting.count_of(len(rows), "job")
    return f"{jobs} running, {share:.0%} of CPU, {formatting.format_size(memory)} of memory"


def _table(rows: Sequence[Row]) -> str:
    has_names = any(row.get("name") for row in rows)
    columns = [column for column in _COLUMNS if has_names or column.heading != _NAME]
    return render_table(columns, [_cells(row, has_names=has_names) for row in rows])


def _cells(row: Row, *, has_names: bool) -> list[Cell]:
    time = formatting.seconds_between(row["started"]) if row["started"] else 0.0
    return [
        Cell(str(row["job_id"])),
        Cell(f"{row['cpu_share']:.0%}"),
        Cell(formatting.format_size(row["rss_bytes"])),
        Cell(formatting.format_duration(row["cpu_seconds"])),
        Cell(formatting.format_duration(time)),
        Cell(str(row["processes"])),
        *([Cell(row.get("name") or "")] if has_names else []),
        Cell(row["command"]),
    ]
