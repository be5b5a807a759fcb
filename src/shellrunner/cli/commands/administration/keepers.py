"""`shellrunner keepers`: commands that run but that the history does not know."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, NoReturn

import click

from shellrunner.cli import api_calls
from shellrunner.cli.parameters.number_types import WholeNumber
from shellrunner.cli.parameters.output_options import output_option
from shellrunner.cli.ui import formatting
from shellrunner.cli.ui.console import Console
from shellrunner.cli.ui.output_format import TABLE, OutputFormat
from shellrunner.cli.ui.table import Cell, Column, render_table
from shellrunner.client import Client

_COLUMNS: Final = (
    Column("KEEPER", right=True),
    Column("PID", right=True),
    Column("JOB", right=True),
    Column("STARTED"),
)
_HOST: Final = Column("HOST")


@click.command()
@click.argument("action", type=click.Choice(["end"]), required=False)
@click.argument("keeper", type=WholeNumber(1), required=False)
@click.option("--host", metavar="NAME", help="The keeper's host, if several have a keeper of this number.")
@output_option()
@api_calls.server_option
def keepers(
    action: str | None, keeper: int | None, host: str | None, output: OutputFormat | None, server: str | None
) -> NoReturn:
    """List running commands that the history does not know, or end one.

    There are some after the history was restored from a backup or replaced by a new one. `end KEEPER` ends one of
    them.
    """
    if bool(action) != (keeper is not None):
        raise click.UsageError("end requires the number of a keeper")
    if host and not action:
        raise click.UsageError("--host requires end")
    console = Console()
    call = Client.keepers if keeper is None else partial(Client.end_keeper, keeper=keeper, host=host)
    api_calls.run_with_client(server, partial(_run, call, output, console), console)


async def _run(
    call: Callable[[Client], Awaitable[Mapping[str, Any]]],
    output: OutputFormat | None,
    console: Console,
    client: Client,
) -> int:
    document = await call(client)
    rows: list[Mapping[str, Any]] = [*document["keepers"]]
    if output and output.kind != TABLE:
        await output.print(console, rows)
    elif rows:
        has_hosts = any(row["host"] for row in rows)
        columns = (*_COLUMNS, _HOST) if has_hosts else _COLUMNS
        await console.print_line(render_table(columns, [_cells(row)[: len(columns)] for row in rows]))
    else:
        console.report("all running commands are known to the history")
    return 0


def _cells(row: Mapping[str, Any]) -> list[Cell]:
    numbers = [Cell(str(row[key])) for key in ("keeper", "pid", "job_id")]
    return [*numbers, Cell(formatting.format_moment(row["started"]), "dim"), Cell(row["host"] or "")]
