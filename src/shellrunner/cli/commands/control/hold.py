"""`shellrunner hold`: keep jobs from starting."""

from typing import NoReturn

import click

from shellrunner.cli import api_calls
from shellrunner.cli.job_selection import JobSelection
from shellrunner.cli.parameters.job_ids import selected_jobs
from shellrunner.client import Client


@click.command()
@selected_jobs(states="waiting,queued", bulk="Hold", is_own=True)
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@api_calls.server_option
def hold(jobs: JobSelection, quiet: bool, server: str | None) -> NoReturn:
    """Keep jobs from starting until they are released.

    Without ID it is the last of your own jobs that has not started. Jobs may be held from the beginning:
    `submit --hold`.
    """
    api_calls.run_for_each_job(server, jobs, _hold, quiet=quiet)


async def _hold(client: Client, job_id: int) -> str:
    await client.edit(job_id, {"held": True})
    return f"job {job_id} is held"
