"""`shellrunner cancel`: request that jobs end."""

from functools import partial
from typing import Final, NoReturn

import click

from shellrunner import control_characters
from shellrunner.cli import api_calls, exit_codes
from shellrunner.cli.job_selection import NOT_DONE, JobSelection
from shellrunner.cli.parameters.job_ids import selected_jobs
from shellrunner.cli.ui.console import Console
from shellrunner.cli.ui.formatting import count_of
from shellrunner.cli.ui.prompt import confirm
from shellrunner.client import Client

_NO_MATCH: Final = "no jobs match"


@click.command()
@selected_jobs(states=NOT_DONE, bulk="Cancel", is_own=True)
@click.option("-y", "--yes", is_flag=True, help="Cancel those of --filter or --all without confirmation.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@api_calls.server_option
def cancel(jobs: JobSelection, yes: bool, quiet: bool, server: str | None) -> NoReturn:
    """Request that jobs end: SIGTERM, then SIGKILL after a grace period.

    Without ID it is the last of your own jobs that is not done. Returns without waiting for their end; see `wait`.
    """
    if not jobs.is_bulk:
        api_calls.run_for_each_job(server, jobs, _cancel, quiet=quiet)
    console = Console(quiet=quiet)
    api_calls.run_with_client(server, partial(_cancel_many, jobs, console, yes=yes), console)


async def _cancel(client: Client, job_id: int) -> str:
    status = await client.cancel(job_id)
    if status["done"]:
        return f"job {job_id} was cancelled"
    unreachable = status.get("unreachable")  # an older server does not know it
    then = f" once host {control_characters.escape(unreachable['host'])} is reachable again" if unreachable else ""
    return f"job {job_id} is being cancelled{then}"


async def _cancel_many(jobs: JobSelection, console: Console, client: Client, *, yes: bool) -> int:
    """Cancel what matches in one request, so that no job starts because another one has ended."""
    if not yes:
        matching = (await client.cancel_many(**jobs.query))["cancelled"]
        if not matching:
            console.report(_NO_MATCH)
            return 0
        count = count_of(matching, "job")
        otherwise = f"use --yes to cancel {count}"
        if not await confirm(f"Cancel {count}", console, refusal="nothing was cancelled", otherwise=otherwise):
            return exit_codes.FAILED
    cancelled = (await client.cancel_many(confirm=True, **jobs.query))["cancelled"]
    verb = "is" if cancelled == 1 else "are"
    console.report(f"{count_of(cancelled, 'job')} {verb} being cancelled" if cancelled else _NO_MATCH)
    return 0
