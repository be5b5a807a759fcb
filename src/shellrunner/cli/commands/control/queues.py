"""`shellrunner queues`: list the queues with their numbers of jobs, and pause or resume them."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, NoReturn

import click

from shellrunner.cli import api_calls
from shellrunner.cli.ui import formatting
from shellrunner.cli.ui.console import Console
from shellrunner.cli.ui.table import Cell, Column, render_table
from shellrunner.client import Client

_STATES: Final = ("running", "queued", "waiting")
_COLUMNS: Final = (
    Column("QUEUE"), Column("STATE"), Column("LIMIT", right=True),
    *(Column(state.upper(), right=True) for state in _STATES), Column("OLDEST"),
)  # fmt: skip


@click.command()
@click.argument("action", type=click.Choice(["pause", "resume"]), required=False)
@click.argument("name", required=False)
@click.option("--all", "every", is_flag=True, help="Pause or resume all queues at once.")
@click.option("--json", "as_json", is_flag=True, help="Print the API's document.")
@api_calls.server_option
def queues(action: str | None, name: str | None, every: bool, as_json: bool, server: str | None) -> NoReturn:
    """List the queues, or `pause NAME` or `resume NAME`.

    No job of a paused queue starts, running jobs continue. A queue stays paused when the service restarts.
    """
    if action and (name is None) != every:
        raise click.UsageError(f"{action} requires either the name of a queue or --all")
    if every and not action:
        raise click.UsageError("--all requires pause or resume")
    console = Console()
    run = partial(_run, action, None if every else name, console, as_json=as_json)
    api_calls.run_with_client(server, run, console)


async def _run(action: str | None, name: str | None, console: Console, client: Client, *, as_json: bool) -> int:
    document = await _request(action, name, client)
    if as_json:
        await console.print_json(document)
        return 0
    await console.print_line(_table(document.get("queues", [document])))
    if held := document.get("held"):
        console.report(f"jobs are held: {held['reason']}: use `shellrunner queues resume --all` to release them")
    elif document["paused"] and "queues" in document:
        console.report("all queues are paused: use `shellrunner queues resume --all` to resume them")
    return 0


async def _request(action: str | None, name: str | None, client: Client) -> Mapping[str, Any]:
    match action, name:
        case "pause", None:
            return await client.pause_all()
        case "resume", None:
            return await client.resume_all()
        case "pause", str():
            return await client.pause(name)
        case "resume", str():
            return await client.resume(name)
    return await client.queues()


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    return render_table(
        _COLUMNS,
        [
            [
                Cell(row["queue"]),
                Cell("paused", "yellow") if row["paused"] else Cell("open", "green"),
                Cell("-" if row["limit"] is None else str(row["limit"])),
                *(Cell(str(row[state])) for state in _STATES),
                Cell(formatting.format_age(row["oldest"]) if row["oldest"] else "", "dim"),
            ]
            for row in rows
        ],
    )
