"""`shellrunner ps`: list jobs as a table, as ids or as JSON, or as a table that is kept up to date.

Must not know how connections are resumed.
"""

import os
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NamedTuple, NoReturn

import click

from shellrunner.cli import api_calls
from shellrunner.cli.fd_io import STDOUT
from shellrunner.cli.job_query import Filters, JobQuery, fetch, filter_option, filter_query
from shellrunner.cli.job_selection import NOT_DONE
from shellrunner.cli.parameters.argument_types import Words
from shellrunner.cli.parameters.number_types import WholeNumber
from shellrunner.cli.parameters.output_options import output_option
from shellrunner.cli.ui.console import Console
from shellrunner.cli.ui.formatting import count_of
from shellrunner.cli.ui.job_table import COLUMNS, render_jobs
from shellrunner.cli.ui.output_format import TABLE, OutputFormat
from shellrunner.client import Client

_DEFAULT_LIMIT: Final = 100
_NOTHING: Final = "no job waits or runs: `shellrunner ps -a` lists those that are done"
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
@click.option(
    "--sort",
    metavar="KEYS",
    help="Sort by created, priority, queue; descending with -, as in -created (default: in the order of starting).",
)
@filter_option
@click.option("--columns", metavar="NAMES", type=Words(COLUMNS), help=f"Columns of the table: {', '.join(COLUMNS)}.")
@output_option(json_help="Print each job with its status as a line of JSON.")
@click.option("--watch", is_flag=True, help="Keep the table up to date until Ctrl-C.")
@api_calls.server_option
def ps(
    *, everything: bool, quiet: bool, limit: int, sort: str | None, filters: Filters, columns: Sequence[str] | None,
    output: OutputFormat | None, watch: bool, server: str | None,
) -> NoReturn:  # fmt: skip
    """List the jobs that are not done: what runs, then what starts next, and why the rest waits.

    With --all, the jobs that are done follow, latest first.
    """
    query = _job_query(filters, sort, limit, everything=everything)
    console, output = Console(), None if output and output.kind == TABLE else output
    if watch:
        _check_watch(is_table=not (quiet or output))
        from shellrunner.cli.listing.watched_table import WatchedTable  # noqa: PLC0415  it imports asyncio

        table = WatchedTable(query, columns, console, counts_all=not (filters or everything))
        api_calls.run_with_client(server, table.run, console, concurrent=True, retry_for=api_calls.RETRY_FOR_LONG)
    style = _Style(columns, output, quiet=quiet, has_choice=everything or bool(filters))
    api_calls.run_with_client(server, partial(_list, query, style, console), console)


class _Style(NamedTuple):
    """How jobs are printed: as a table with `columns`, in another form, or, if `quiet`, as ids.

    `has_choice` says whether other jobs are listed than those that are not done.
    """

    columns: Sequence[str] | None
    output: OutputFormat | None
    quiet: bool
    has_choice: bool


def _job_query(filters: Filters, sort: str | None, limit: int, *, everything: bool) -> JobQuery:
    parameters: dict[str, Any] = filter_query(filters)
    if everything or _FILTERS_OF_DONE_JOBS & parameters.keys():
        parameters = {name: value[0] if name == "state" else value for name, value in parameters.items()}
    else:
        parameters["state"] = NOT_DONE
    if sort:
        parameters["sort"] = sort
    return JobQuery(parameters, limit)


async def _list(query: JobQuery, style: _Style, console: Console, client: Client) -> int:
    result = await fetch(client, query)
    if style.quiet:
        for row in result.rows:
            await console.print_line(str(row["job_id"]))
    elif style.output:
        await style.output.print(console, result.rows)
    else:
        await console.print_line(render_jobs(result.rows, style.columns))
        if not result.rows:
            console.remark("no jobs match" if style.has_choice else _NOTHING)
    if result.has_more:
        jobs, verb = count_of(len(result.rows), "job"), "matches" if len(result.rows) == 1 else "match"
        console.report(f"more than {jobs} {verb}: use -n 0 to list all")
    return 0


def _check_watch(*, is_table: bool) -> None:
    if not is_table:
        raise click.UsageError("--watch cannot be combined with --quiet, --json or --output")
    if not os.isatty(STDOUT) or os.environ.get("TERM", "dumb") == "dumb":
        raise click.UsageError("--watch requires a terminal")
