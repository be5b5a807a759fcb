"""`shellrunner ps`: the jobs that there are, as a table, as numbers, as JSON, or as a table that stays up to date.

Owned by the call. Must not know how connections are kept.
"""

import json
from functools import partial
from typing import Any, Final, NoReturn

import click

from shellrunner.cli import api_calls
from shellrunner.cli.filter_option import Filters, in_query, option
from shellrunner.cli.job_query import Query, look
from shellrunner.cli.ui.console import Console
from shellrunner.client import Client

_SHOWN: Final = 100
_UNFINISHED: Final = "waiting,queued,running"
_ABOUT_ENDS: Final = frozenset({"state", "ending", "exit_code", "completed_after", "completed_before"})


@click.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Also those that are done.")
@click.option("-q", "--quiet", is_flag=True, help="Only their numbers.")
@click.option("-n", "--limit", type=click.IntRange(0), default=_SHOWN, show_default=True, help="So many; 0: all.")
@click.option("--sort", metavar="KEYS", help="By created, priority, queue; -created: descending.")
@option
@click.option("--json", "as_json", is_flag=True, help="Each job with its status as a line of JSON.")
@click.option("--watch", is_flag=True, help="Stay, and show every change.")
@api_calls.server
def ps(
    *, everything: bool, quiet: bool, limit: int, sort: str | None, filters: Filters, as_json: bool, watch: bool,
    server: str | None,
) -> NoReturn:  # fmt: skip
    """List the jobs that are not done, the newest first."""
    if watch and (quiet or as_json):
        raise click.UsageError("--watch is for people, and goes neither with --quiet nor with --json")
    query = _query(filters, sort, limit, everything=everything)
    terminal = Console()
    if watch:
        from shellrunner.cli.commands.ps_watch import watch_jobs  # noqa: PLC0415

        api_calls.work(server, partial(watch_jobs, query, terminal), terminal, patience=api_calls.LONG)
    doing = partial(_list, query, terminal, quiet=quiet, as_json=as_json)
    api_calls.work(server, doing, terminal)


async def _list(query: Query, terminal: Console, client: Client, *, quiet: bool, as_json: bool) -> int:
    found = await look(client, query)
    if quiet:
        for row in found.rows:
            await terminal.print(str(row["job_id"]))
    elif as_json:
        for row in found.rows:
            await terminal.print(json.dumps(row, ensure_ascii=False))
    else:
        from shellrunner.cli.ui.job_table import overview  # noqa: PLC0415  rich takes its time, and not all need it

        await terminal.print(overview(found.rows))
    if found.more:
        terminal.say(f"there are more than these {len(found.rows)}: -n 0 shows all")
    return 0


def _query(given: Filters, sort: str | None, most: int, *, everything: bool) -> Query:
    asked: dict[str, Any] = in_query(given)
    if not everything and not _ABOUT_ENDS & asked.keys():
        asked["state"] = _UNFINISHED
    if sort:
        asked["sort"] = sort
    return Query(asked, most)
