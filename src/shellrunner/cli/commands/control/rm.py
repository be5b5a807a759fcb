"""`shellrunner rm`: delete jobs from the history."""

from typing import NoReturn

import click

from shellrunner.cli import api_calls
from shellrunner.cli.job_selection import JobSelection
from shellrunner.cli.parameters.job_ids import named_jobs
from shellrunner.client import Client


@click.command()
@named_jobs
@click.option("--output-only", is_flag=True, help="Delete only results and output, and keep the jobs.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@api_calls.server_option
def rm(jobs: JobSelection, output_only: bool, quiet: bool, server: str | None) -> NoReturn:
    """Delete jobs that are done from the history, with their output."""
    api_calls.run_for_each_job(server, jobs, _delete_result if output_only else _delete, quiet=quiet)


async def _delete(client: Client, job_id: int) -> str:
    await client.delete(job_id)
    return f"deleted job {job_id}"


async def _delete_result(client: Client, job_id: int) -> str:
    await client.delete_result(job_id)
    return f"deleted the result of job {job_id}"
