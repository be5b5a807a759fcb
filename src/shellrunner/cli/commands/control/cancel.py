"""`shellrunner cancel`: request that jobs end."""

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
def cancel(jobs: tuple[int, ...], quiet: bool, server: str | None) -> NoReturn:
    """Request that jobs end: SIGTERM, then SIGKILL after a grace period.

    Returns without waiting for their end; see `wait`.
    """
    console = Console(quiet=quiet)
    api_calls.run_with_client(server, partial(_cancel, jobs, console), console)


async def _cancel(jobs: Sequence[int], console: Console, client: Client) -> int:
    async def cancel_job(job_id: int) -> int:
        status = await client.cancel(job_id)
        console.report(f"job {job_id} was cancelled" if status["done"] else f"job {job_id} is being cancelled")
        return 0

    return max(await api_calls.for_each_job(jobs, cancel_job, console))
