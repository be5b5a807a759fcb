"""`shellrunner queues`: how much waits and runs in each, and holding them or letting them go."""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any, NoReturn

import click

from shellrunner.cli import api_calls
from shellrunner.cli.ui import formatting
from shellrunner.cli.ui.console import Console
from shellrunner.client import Client

_HEADINGS = ("RUNNING", "QUEUED", "WAITING")


@click.command()
@click.argument("action", type=click.Choice(["pause", "resume"]), required=False)
@click.argument("name", required=False)
@click.option("--all", "every", is_flag=True, help="With pause or resume: all queues at once.")
@click.option("--json", "as_json", is_flag=True, help="As the API's document.")
@api_calls.server
def queues(action: str | None, name: str | None, every: bool, as_json: bool, server: str | None) -> NoReturn:
    """List the queues, or `pause NAME` or `resume NAME`.

    A queue that is paused starts nothing new, and what runs goes on; that is kept over restarts.
    """
    if action and (name is None) != every:
        raise click.UsageError(f"{action} what? Name a queue, or say --all")
    if every and not action:
        raise click.UsageError("--all goes with pause or resume")
    terminal = Console()
    doing = partial(_ask, action, None if every else name)
    api_calls.work(server, partial(_tell, doing, terminal, as_json=as_json), terminal)


async def _ask(action: str | None, name: str | None, client: Client) -> Mapping[str, Any]:
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


async def _tell(doing: Any, terminal: Console, client: Client, *, as_json: bool) -> int:
    told = await doing(client)
    if as_json:
        await terminal.print(json.dumps(told, ensure_ascii=False))
        return 0
    await terminal.print(_table(told.get("queues", [told])))
    if told["paused"] and "queues" in told:
        terminal.say("all queues are paused: shellrunner queues resume --all")
    return 0


def _table(rows: list[Mapping[str, Any]]) -> str:
    from shellrunner.cli.ui import table  # noqa: PLC0415  rich takes its time, and --json does not need it
    from shellrunner.cli.ui.table import Cell, Column  # noqa: PLC0415

    columns = [Column("QUEUE"), Column("STATE"), Column("LIMIT", right=True)]
    columns += [Column(heading, right=True) for heading in _HEADINGS] + [Column("OLDEST")]
    return table.rendered(
        columns,
        [
            [
                Cell(row["queue"]),
                Cell("paused", "yellow") if row["paused"] else Cell("open", "green"),
                Cell("-" if row["limit"] is None else str(row["limit"])),
                *(Cell(str(row[heading.lower()])) for heading in _HEADINGS),
                Cell(formatting.ago(row["oldest"]) if row["oldest"] else "", "dim"),
            ]
            for row in rows
        ],
    )
