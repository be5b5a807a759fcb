"""`shellrunner pause`: suspend running commands."""

from typing import NoReturn

import click

from shellrunner.cli import api_calls
from shellrunner.cli.job_selection import JobSelection
from shellrunner.cli.parameters.job_ids import selected_jobs
from shellrunner.client import Client


@click.command()
@selected_jobs(states="running", bulk="Pause", is_own=True)
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@api_calls.server_option
def pause(jobs: JobSelection, quiet: bool, server: str | None) -> NoReturn:
    """Suspend running commands, with all of their processes, until they are resumed.

    Without ID it is the last of your own jobs that is running. Timeouts keep running, and `cancel` works as
    usual. To keep jobs from starting, use `hold` or `queues pause`.
    """
    api_calls.run_for_each_job(server, jobs, _pause, quiet=quiet)


async def _pause(client: Client, job_id: int) -> str:
    await client.pause_job(job_id)
    return f"job {job_id} is paused"
