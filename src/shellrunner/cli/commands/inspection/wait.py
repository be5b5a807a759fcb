"""`shellrunner wait`: wait until jobs are done, and exit as `run` would have.

Must not know how connections are resumed.
"""

from collections.abc import Sequence
from functools import partial
from typing import NoReturn

import click

from shellrunner.cli import api_calls, exit_codes
from shellrunner.cli.parameters.job_ids import job_ids_argument
from shellrunner.cli.parameters.job_options import JobCommand
from shellrunner.cli.ui import formatting
from shellrunner.cli.ui.console import Console
from shellrunner.client import Client


@click.command(cls=JobCommand)
@job_ids_argument
@click.option("-q", "--quiet", is_flag=True, help="Do not report how the jobs ended.")
@click.option("--json", "as_json", is_flag=True, help="Print each result as a line of JSON.")
@api_calls.server_option
def wait(jobs: tuple[int, ...], quiet: bool, as_json: bool, server: str | None) -> NoReturn:
    """Wait until all jobs are done.

    The exit code is that of `run`, for the first of the jobs, in the given order, for which it is not 0.
    """
    console = Console(quiet=quiet)
    action = partial(_wait, jobs, console, as_json=as_json)
    api_calls.run_with_client(
        server,
        action,
        console,
        retry_for=api_calls.RETRY_FOR_LONG,
        retry_first_for=api_calls.RETRY_FIRST_FOR,
        error_code=exit_codes.SERVICE_ERROR,
    )


async def _wait(jobs: Sequence[int], console: Console, client: Client, *, as_json: bool) -> int:
    wait_for_job = partial(_wait_for_job, console, client, as_json=as_json)
    codes = await api_calls.for_each_job(jobs, wait_for_job, console, error_code=exit_codes.SERVICE_ERROR)
    return next(filter(None, codes), 0)


async def _wait_for_job(console: Console, client: Client, job_id: int, *, as_json: bool) -> int:
    console.progress.set_activity(f"waiting for job {job_id}")
    status, result = await client.wait(job_id), None
    console.progress.set_activity("")
    if status["result"] and (as_json or status["ending"] != "exited" or status.get("leftovers_count")):
        result = await client.result(job_id)
        if as_json:
            await console.print_json(result)
    if status["ending"] != "exited":
        console.report(formatting.describe_ending(job_id, status, result and result["detail"]))
    if result and (leftovers := formatting.describe_leftovers(result)):
        console.report(f"job {job_id}: {leftovers}")
    return exit_codes.exit_code_of_job(status)
