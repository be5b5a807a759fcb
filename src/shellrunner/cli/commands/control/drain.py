"""`shellrunner drain`: start no more jobs on hosts."""

from collections.abc import Sequence
from functools import partial
from typing import Final, NoReturn

import click

from shellrunner.cli import api_calls
from shellrunner.cli.parameters.service_values import HOST
from shellrunner.cli.ui.console import Console
from shellrunner.cli.ui.formatting import count_of
from shellrunner.client import Client

_INTERVAL: Final = 1.0  # seconds between two looks


@click.command()
@click.argument("hosts", type=HOST, nargs=-1, required=True, metavar="HOST...")
@click.option("-w", "--wait", "waits", is_flag=True, help="Wait until nothing runs there.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@api_calls.server_option
def drain(hosts: Sequence[str], waits: bool, quiet: bool, server: str | None) -> NoReturn:
    """Start no more jobs on hosts; those that run there continue.

    This stays so when a host's server is restarted, until `undrain`. Its queued jobs start on other hosts.
    """
    console = Console(quiet=quiet)
    api_calls.run_with_client(server, partial(_drain, hosts, console, waits=waits), console, concurrent=waits)


async def _drain(hosts: Sequence[str], console: Console, client: Client, *, waits: bool) -> int:
    drained = []

    async def drain_one(host: str) -> str:
        running = (await client.drain_worker(host))["running"]
        drained.append(host)
        return f"host {host} is drained; {count_of(running, 'job')} running"

    code = await api_calls.for_each_host(hosts, drain_one, console)
    if waits:
        for host in drained:
            await _wait(host, console, client)
    return code


async def _wait(host: str, console: Console, client: Client) -> None:
    import asyncio  # noqa: PLC0415  it takes 30 ms

    was_reachable = True
    while running := (document := await client.worker(host))["running"]:
        if was_reachable and not document["reachable"]:
            console.report(f"host {host} is not reachable: waiting until it returns or its jobs are lost")
        was_reachable = document["reachable"]
        console.progress.set_activity(f"waiting for {count_of(running, 'job')} on host {host}")
        await asyncio.sleep(_INTERVAL)
    console.progress.set_activity("")
