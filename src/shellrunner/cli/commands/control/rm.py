"""`shellrunner rm`: delete jobs from the history."""

from collections.abc import Sequence
from functools import partial
from typing import NoReturn

import click

from shellrunner.cli import api_calls
from shellrunner.cli.parameters.job_ids import job_ids_argument
from shellrunner.cli.ui.console import Console
from shellrunner.client import Client


@click.command()
@job_ids_argument
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@api_calls.server_option
def rm(jobs: tuple[int, ...], quiet: bool, server: str | None) -> NoReturn:
    """Delete jobs that are done from the history, with their output."""
    console = Console(quiet=quiet)
    api_calls.run_with_client(server, partial(_delete, jobs, console), console)


async def _delete(jobs: Sequence[int], console: Console, client: Client) -> int:
    async def delete_job(job_id: int) -> int:
        await client.delete(job_id)
        console.report(f"deleted job {job_id}")
        return 0

    return max(await api_calls.for_each_job(jobs, delete_job, console))
