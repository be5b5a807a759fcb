"""`shellrunner signal`: send a signal to running commands."""

from functools import partial
from signal import Signals
from typing import NoReturn

import click

from shellrunner import ascii_text
from shellrunner.cli import api_calls
from shellrunner.cli.job_selection import JobSelection
from shellrunner.cli.parameters.job_ids import selected_jobs
from shellrunner.cli.ui.console import Console
from shellrunner.client import Client


def _name(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    """Return the name as the API has it: `HUP`, `sighup` and `1` are SIGHUP."""
    if ascii_text.is_decimal(value):
        try:
            return Signals(int(value)).name
        except ValueError:
            raise click.BadParameter(f"there is no signal with the number {value}") from None
    name = ascii_text.upper(value)
    return name if name.startswith("SIG") else f"SIG{name}"


@click.command()
@click.argument("signal", metavar="SIGNAL", callback=_name)
@selected_jobs(states="running", is_own=True)
@click.option(
    "--tree", is_flag=True, help="Send it to every process group of the job, not only to the command's own."
)
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@api_calls.server_option
def signal(signal: str, jobs: JobSelection, tree: bool, quiet: bool, server: str | None) -> NoReturn:
    """Send SIGNAL (HUP, SIGUSR1, 15, ...) to the process group of running commands.

    Without ID it is the last of your own jobs that is running. To end a job and everything that it started, use
    `cancel`.
    """
    console = Console(quiet=quiet)
    api_calls.run_with_client(server, partial(_send, signal, jobs, console, to="tree" if tree else "group"), console)


async def _send(signal: str, jobs: JobSelection, console: Console, client: Client, *, to: str) -> int:
    async def send_to_job(job_id: int) -> int:
        await client.signal(job_id, signal, to=to)
        console.report(f"job {job_id} was sent {signal}")
        return 0

    return max(await api_calls.for_each_job(await jobs.resolve(client), send_to_job, console), default=0)
