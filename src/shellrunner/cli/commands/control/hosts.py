"""`shellrunner hosts`: list the hosts that share the history, live on request, and remove one."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, NoReturn

import click

from shellrunner.cli import api_calls, exit_codes
from shellrunner.cli.parameters.output_options import output_option
from shellrunner.cli.parameters.service_values import HOST
from shellrunner.cli.ui import formatting, prompt
from shellrunner.cli.ui.console import Console
from shellrunner.cli.ui.output_format import TABLE, TEMPLATE, OutputFormat
from shellrunner.cli.ui.table import Cell, Column, render_table
from shellrunner.client import Client

_INTERVAL: Final = 2.0  # seconds between two looks, as hosts renew their leases
_COLUMNS: Final = (
    Column("HOST"), Column("STATE"), Column("RUNNING", right=True), Column("SLOTS", right=True), Column("QUEUES"),
    Column("SEEN"), Column("VERSION"),
)  # fmt: skip

Row = Mapping[str, Any]


@click.command()
@click.argument("action", type=click.Choice(["rm"]), required=False)
@click.argument("name", type=HOST, required=False)
@click.option("-w", "--watch", is_flag=True, help="Keep the table up to date until Ctrl-C.")
@click.option("-y", "--yes", is_flag=True, help="Remove without confirmation.")
@output_option(json_help="Print the API's document.")
@api_calls.server_option
def hosts(
    *, action: str | None, name: str | None, watch: bool, yes: bool, output: OutputFormat | None, server: str | None
) -> NoReturn:
    """List the hosts that share the history, or remove one that will not return.

    Only a host that is not reachable can be removed. What ran there is lost by that: its jobs end, and nobody knows
    how. If it does return, it is listed again, and adds what it knows to those jobs.
    """
    if action and name is None:
        raise click.UsageError(f"{action} requires the name of a host")
    if watch and (action or (output and output.kind != TABLE)):
        raise click.UsageError("--watch shows the table, and nothing else")
    console = Console()
    if name is not None:
        api_calls.run_with_client(server, partial(_remove, name, console, yes=yes), console)
    if watch:
        api_calls.run_with_client(
            server, partial(_watch, console), console, concurrent=True, retry_for=api_calls.RETRY_FOR_LONG
        )
    api_calls.run_with_client(server, partial(_list, output, console), console)


async def _list(output: OutputFormat | None, console: Console, client: Client) -> int:
    document = await client.workers()
    if output and output.kind != TABLE:
        # The document as it is for JSON, the hosts one by one for a template.
        documents: Sequence[Row] = document["workers"] if output.kind == TEMPLATE else [document]
        await output.print(console, documents, is_list=False)
    else:
        await console.print_line(_table(document["workers"]))
        here = next((row["host"] for row in document["workers"] if row["responding"]), "the responding host")
        for row in document["workers"]:
            if row["differing"]:
                settings = ", ".join(row["differing"])
                console.report(f"{row['host']} and {here} differ in {settings}, which must be the same on all hosts")
    return 0


async def _watch(console: Console, client: Client) -> int:
    import asyncio  # noqa: PLC0415  it takes 30 ms

    from shellrunner.cli.listing.watched_table import draw, on_alternate_screen  # noqa: PLC0415  it imports asyncio

    async def redraw() -> None:
        while True:
            await draw(console, _table((await client.workers())["workers"]).splitlines())
            await asyncio.sleep(_INTERVAL)

    return await on_alternate_screen(redraw())


async def _remove(name: str, console: Console, client: Client, *, yes: bool) -> int:
    if not yes:
        lost = formatting.count_of(await client.remove_worker(name), "running job")
        question = f"Remove host {name}, and declare {lost} lost"
        otherwise = f"use --yes to declare {lost} lost"
        if not await prompt.confirm(question, console, refusal="nothing was removed", otherwise=otherwise):
            return exit_codes.FAILED
    lost = formatting.count_of(await client.remove_worker(name, confirm=True), "job")
    console.report(f"host {name} was removed; {lost} lost")
    return 0


def _table(rows: Sequence[Row]) -> str:
    return render_table(_COLUMNS, [_cells(row) for row in rows])


def _cells(row: Row) -> list[Cell]:
    runs_jobs = row["runs_jobs"]
    return [
        Cell(row["host"]),
        _state(row),
        Cell(_running(row) if runs_jobs or row["running"] or row["unsettled"] else ""),
        Cell(str(row["slots"]) if runs_jobs else ""),
        Cell(("all" if row["queues"] is None else ", ".join(row["queues"])) if runs_jobs else "", "dim"),
        Cell(formatting.format_age(row["seen"]), "dim"),
        Cell(row["version"], "dim"),
    ]


def _running(row: Row) -> str:
    """Return how many jobs run there, and how many commands may that the history calls lost or has deleted."""
    return f"{row['running']}, {row['unsettled']} lost" if row["unsettled"] else str(row["running"])


def _state(row: Row) -> Cell:
    if row.get("stopped"):  # an older server does not know it
        return Cell("stopped", "dim")
    if not row["reachable"]:
        return Cell("unreachable", "red")
    if row["draining"]:
        return Cell("draining" if row["running"] else "drained", "yellow")
    return Cell("open", "green") if row["runs_jobs"] else Cell("API only", "dim")
