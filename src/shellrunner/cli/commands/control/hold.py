"""`shellrunner hold`: keep jobs from starting."""

from functools import partial
from typing import NoReturn

import click

from shellrunner.cli import api_calls
from shellrunner.cli.job_selection import JobSelection
from shellrunner.cli.parameters.job_ids import selected_jobs
from shellrunner.cli.ui.console import Console
from shellrunner.client import Client


@click.command()
@selected_jobs(states="waiting,queued", bulk="Hold", is_own=True)
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@api_calls.server_option
def hold(jobs: JobSelection, quiet: bool, server: str | None) -> NoReturn:
    """Keep jobs from starting until `release`.

    Without ID it is the last of your own jobs that has not started. Jobs may be held from the beginning:
    `submit --hold`.
    """
    console = Console(quiet=quiet)
    api_calls.run_with_client(server, partial(_hold, jobs, console), console)


async def _hold(jobs: JobSelection, console: Console, client: Client) -> int:
    async def hold_job(job_id: int) -> str:
        await client.edit(job_id, {"held": True})
        return f"job {job_id} is held"

    return await api_calls.report_each(jobs, hold_job, console, client)
