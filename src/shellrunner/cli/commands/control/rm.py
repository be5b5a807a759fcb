"""`shellrunner rm`: delete jobs from the history."""

from functools import partial
from typing import NoReturn

import click

from shellrunner.cli import api_calls
from shellrunner.cli.job_selection import JobSelection
from shellrunner.cli.parameters.job_ids import named_jobs
from shellrunner.cli.ui.console import Console
from shellrunner.client import Client


@click.command()
@named_jobs
@click.option("--output-only", is_flag=True, help="Delete only results and output, and keep the jobs.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@api_calls.server_option
def rm(jobs: JobSelection, output_only: bool, quiet: bool, server: str | None) -> NoReturn:
    """Delete jobs that are done from the history, with their output."""
    console = Console(quiet=quiet)
    api_calls.run_with_client(server, partial(_delete, jobs, console, output_only=output_only), console)


async def _delete(jobs: JobSelection, console: Console, client: Client, *, output_only: bool) -> int:
    async def delete_job(job_id: int) -> int:
        await (client.delete_result(job_id) if output_only else client.delete(job_id))
        console.report(f"deleted the result of job {job_id}" if output_only else f"deleted job {job_id}")
        return 0

    return max(await api_calls.for_each_job(await jobs.resolve(client), delete_job, console), default=0)
