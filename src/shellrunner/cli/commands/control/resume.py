"""`shellrunner resume`: resume paused commands."""

from typing import NoReturn

import click

from shellrunner.cli import api_calls
from shellrunner.cli.job_selection import JobSelection
from shellrunner.cli.parameters.job_ids import selected_jobs
from shellrunner.client import Client


@click.command()
@selected_jobs(states="running", bulk="Resume", is_own=True)
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@api_calls.server_option
def resume(jobs: JobSelection, quiet: bool, server: str | None) -> NoReturn:
    """Resume paused commands.

    Without ID it is the last of your own jobs that is running.
    """
    api_calls.run_for_each_job(server, jobs, _resume, quiet=quiet)


async def _resume(client: Client, job_id: int) -> str:
    await client.resume_job(job_id)
    return f"job {job_id} is resumed"
