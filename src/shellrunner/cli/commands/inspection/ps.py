"""`shellrunner ps`: list jobs as a table, as ids or as JSON, or as a table that is kept up to date.

Must not know how connections are resumed.
"""

import os
from functools import partial
from typing import Any, Final, NoReturn

import click

from shellrunner.cli import api_calls
from shellrunner.cli.fd_io import STDOUT
from shellrunner.cli.job_query import Filters, JobQuery, fetch, filter_option, filter_query
from shellrunner.cli.parameters.number_types import WholeNumber
from shellrunner.cli.ui.console import Console
from shellrunner.cli.ui.job_table import render_jobs
from shellrunner.client import Client

_DEFAULT_LIMIT: Final = 100
_UNFINISHED: Final = "waiting,queued,running"
_FILTERS_OF_DONE_JOBS: Final = frozenset({"state", "ending", "exit_code", "completed_after", "completed_before"})


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
        from shellrunner.cli.watched_table import watch_jobs  # noqa: PLC0415  it imports asyncio

        action = partial(watch_jobs, query, console)
        api_calls.run_with_client(server, action, console, concurrent=True, retry_for=api_calls.RETRY_FOR_LONG)
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
