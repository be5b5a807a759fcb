"""`shellrunner undrain`: start jobs on drained hosts again."""

from collections.abc import Sequence
from functools import partial
from typing import NoReturn

import click

from shellrunner.cli import api_calls
from shellrunner.cli.parameters.service_values import HOST
from shellrunner.cli.ui.console import Console
from shellrunner.client import Client


@click.command()
@click.argument("hosts", type=HOST, nargs=-1, required=True, metavar="HOST...")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@api_calls.server_option
def undrain(hosts: Sequence[str], quiet: bool, server: str | None) -> NoReturn:
    """Start jobs on drained hosts again."""
    console = Console(quiet=quiet)
    api_calls.run_with_client(server, partial(_undrain, hosts, console), console)


async def _undrain(hosts: Sequence[str], console: Console, client: Client) -> int:
    async def resume(host: str) -> str:
        await client.resume_worker(host)
        return f"host {host} starts jobs again"

    return await api_calls.for_each_host(hosts, resume, console)
