"""`shellrunner resume`: have paused commands go on."""

from functools import partial
from typing import NoReturn

import click

from shellrunner.cli import api_calls
from shellrunner.cli.job_selection import JobSelection
from shellrunner.cli.parameters.job_ids import selected_jobs
from shellrunner.cli.ui.console import Console
from shellrunner.client import Client


@click.command()
@selected_jobs(states="running", bulk="Resume", is_own=True)
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@api_calls.server_option
def resume(jobs: JobSelection, quiet: bool, server: str | None) -> NoReturn:
    """Have paused commands go on.

    Without ID it is the last of your own jobs that is running.
    """
    console = Console(quiet=quiet)
    api_calls.run_with_client(server, partial(_resume, jobs, console), console)


async def _resume(jobs: JobSelection, console: Console, client: Client) -> int:
    async def resume_job(job_id: int) -> str:
        await client.resume_job(job_id)
        return f"job {job_id} goes on"

    return await api_calls.report_each(jobs, resume_job, console, client)
