"""`shellrunner release`: let held jobs start."""

from typing import NoReturn

import click

from shellrunner.cli import api_calls
from shellrunner.cli.job_selection import JobSelection
from shellrunner.cli.parameters.job_ids import selected_jobs
from shellrunner.client import Client


@click.command()
@selected_jobs(states="waiting", bulk="Release", is_own=True)
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@api_calls.server_option
def release(jobs: JobSelection, quiet: bool, server: str | None) -> NoReturn:
    """Let held jobs start.

    Without ID it is the last of your own jobs that is waiting.
    """
    api_calls.run_for_each_job(server, jobs, _release, quiet=quiet)


async def _release(client: Client, job_id: int) -> str:
    await client.edit(job_id, {"held": False})
    return f"job {job_id} is released"
