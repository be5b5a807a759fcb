"""`shellrunner cancel`: request that jobs end."""

from functools import partial
from typing import NoReturn

import click

from shellrunner.cli import api_calls
from shellrunner.cli.job_selection import NOT_DONE, JobSelection
from shellrunner.cli.parameters.job_ids import selected_jobs
from shellrunner.cli.ui.console import Console
from shellrunner.client import Client


@click.command()
@selected_jobs(states=NOT_DONE, bulk="Cancel")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@api_calls.server_option
def cancel(jobs: JobSelection, quiet: bool, server: str | None) -> NoReturn:
    """Request that jobs end: SIGTERM, then SIGKILL after a grace period.

    Without ID it is the last job that is not done. Returns without waiting for their end; see `wait`.
    """
    console = Console(quiet=quiet)
    api_calls.run_with_client(server, partial(_cancel, jobs, console), console)


async def _cancel(jobs: JobSelection, console: Console, client: Client) -> int:
    async def cancel_job(job_id: int) -> int:
        status = await client.cancel(job_id)
        console.report(f"job {job_id} was cancelled" if status["done"] else f"job {job_id} is being cancelled")
        return 0

    return max(await api_calls.for_each_job(await jobs.resolve(client), cancel_job, console), default=0)
