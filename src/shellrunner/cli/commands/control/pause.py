"""`shellrunner pause`: stop running commands for a while."""

from functools import partial
from typing import NoReturn

import click

from shellrunner.cli import api_calls
from shellrunner.cli.job_selection import JobSelection
from shellrunner.cli.parameters.job_ids import selected_jobs
from shellrunner.cli.ui.console import Console
from shellrunner.client import Client


@click.command()
@selected_jobs(states="running", bulk="Pause", is_own=True)
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@api_calls.server_option
def pause(jobs: JobSelection, quiet: bool, server: str | None) -> NoReturn:
    """Stop running commands with all of their processes, until `resume`.

    Without ID it is the last of your own jobs that is running. Timeouts count on, and `cancel` works as ever.
    To keep jobs from starting, use `hold` or `queues pause`.
    """
    console = Console(quiet=quiet)
    api_calls.run_with_client(server, partial(_pause, jobs, console), console)


async def _pause(jobs: JobSelection, console: Console, client: Client) -> int:
    async def pause_job(job_id: int) -> str:
        await client.pause_job(job_id)
        return f"job {job_id} is paused"

    return await api_calls.report_each(jobs, pause_job, console, client)
