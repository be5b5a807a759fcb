"""`shellrunner signal`: send a signal to running commands."""

from functools import partial
from signal import Signals
from typing import NoReturn

import click

from shellrunner import ascii_text
from shellrunner.cli import api_calls
from shellrunner.cli.job_selection import JobSelection
from shellrunner.cli.parameters.job_ids import selected_jobs
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
    api_calls.run_for_each_job(
        server, jobs, partial(_send, signal=signal, to="tree" if tree else "group"), quiet=quiet
    )


async def _send(client: Client, job_id: int, *, signal: str, to: str) -> str:
    await client.signal(job_id, signal, to=to)
    return f"job {job_id} was sent {signal}"
