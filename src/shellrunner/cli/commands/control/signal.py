"""`shellrunner signal`: send a signal to running commands."""

from functools import partial
from typing import NoReturn

import click

from shellrunner.cli import api_calls
from shellrunner.cli.job_selection import JobSelection
from shellrunner.cli.parameters.argument_types import SIGNAL
from shellrunner.cli.parameters.job_ids import selected_jobs
from shellrunner.client import Client


@click.command()
@click.argument("signal", metavar="SIGNAL", type=SIGNAL)
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
