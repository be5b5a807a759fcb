"""`shellrunner wait`: wait until jobs are done, and exit as `run` would have.

Must not know how connections are resumed.
"""

from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

import click

from shellrunner.cli import api_calls, exit_codes
from shellrunner.cli.job_selection import NOT_DONE, JobSelection
from shellrunner.cli.listing.job_printer import JobPrinter
from shellrunner.cli.parameters.job_ids import selected_jobs
from shellrunner.cli.parameters.job_options import JobCommand
from shellrunner.cli.parameters.output_options import output_option
from shellrunner.cli.ui import formatting
from shellrunner.cli.ui.console import Console
from shellrunner.cli.ui.output_format import OutputFormat
from shellrunner.client import Client, StatusChanged, StreamReset

if TYPE_CHECKING:
    from shellrunner.client import Status

_UNKNOWN_CHANGE: Final = "none"  # an id of no event, which is answered with a reset once the stream is connected


@click.command(cls=JobCommand)
@selected_jobs(states=NOT_DONE, bulk="Wait for")
@click.option("--any", "is_any", is_flag=True, help="Wait until one of the jobs is done, and print its id.")
@click.option("-q", "--quiet", is_flag=True, help="Do not report how the jobs ended.")
@output_option(json_help="Print each result as a line of JSON.")
@api_calls.server_option
def wait(jobs: JobSelection, is_any: bool, quiet: bool, output: OutputFormat | None, server: str | None) -> NoReturn:
    """Wait until all jobs are done.

    Without ID it is the last job. The exit code is that of `run`, for the first of the jobs, in the given order, for
    which it is not 0; with --any it is that of the job that was done first.
    """
    console = Console(quiet=quiet)
    if not jobs.is_bulk:  # the last job may be done already
        jobs = jobs._replace(states=None)
    action = partial(_wait, jobs, output, console, is_any=is_any)
    api_calls.run_with_client(
        server,
        action,
        console,
        concurrent=is_any,
        retry_for=api_calls.RETRY_FOR_LONG,
        retry_first_for=api_calls.RETRY_FIRST_FOR,
        error_code=exit_codes.SERVICE_ERROR,
    )


async def _wait(
    jobs: JobSelection, output: OutputFormat | None, console: Console, client: Client, *, is_any: bool
) -> int:
    ids = await jobs.resolve(client)
    if is_any and ids:
        what = f"one of {len(ids)} jobs" if len(ids) > 1 else f"job {ids[0]}"
        console.progress.set_activity(f"waiting for {what}")
        ids = [await _first_done(ids, client)]
        if output is None:
            await console.print_line(str(ids[0]))
    printer = JobPrinter(output, console, client) if output else None
    waiting = _Waiting(printer, console, client, has_several=len(ids) > 1)
    codes = await api_calls.for_each_job(ids, waiting.wait_for, console, error_code=exit_codes.SERVICE_ERROR)
    if printer:
        await printer.finish()
    return next(filter(None, codes), 0)


async def _first_done(ids: list[int], client: Client) -> int:
    """Return the id of the job that is done first; of several that are done already, the first in the given order."""
    wanted = set(ids)
    async with aclosing(client.changes(after=_UNKNOWN_CHANGE)) as changes:
        async for change in changes:
            match change:
                case StreamReset():  # the first event, and after each restart: what follows is in the stream
                    for job_id in ids:
                        if (await client.status(job_id))["done"]:
                            return job_id
                case StatusChanged(status) if status["done"] and status["job_id"] in wanted:
                    return status["job_id"]
    raise AssertionError("the stream of changes has no end")


class _Waiting:
    """Waits for jobs one by one, and prints how each has ended."""

    def __init__(self, printer: JobPrinter | None, console: Console, client: Client, *, has_several: bool) -> None:
        """Of several jobs, the exit code alone does not show which one has failed."""
        self._printer, self._console, self._client, self._has_several = printer, console, client, has_several

    def _show_unreachable(self, status: "Status") -> None:
        is_unreachable = status.get("unreachable")  # an older server does not know it
        text = f", which {formatting.describe_state(status)}" if is_unreachable else ""
        self._console.progress.set_activity(f"waiting for job {status['job_id']}{text}")

    async def wait_for(self, job_id: int) -> int:
        """Wait for a job, and return the exit code of `run`."""
        self._console.progress.set_activity(f"waiting for job {job_id}")
        status, result = await self._client.wait(job_id, on_status=self._show_unreachable), None
        self._console.progress.set_activity("")
        if status["result"] and (self._printer or status["ending"] != "exited" or status.get("leftovers_count")):
            result = await self._client.result(job_id)
            if self._printer:
                await self._printer.add(job_id, result)
        if status["ending"] != "exited" or (self._has_several and status["exit_code"]):
            self._console.report(formatting.describe_ending(job_id, status, result and result["detail"]))
        if result and (leftovers := formatting.describe_leftovers(result)):
            self._console.report(f"job {job_id}: {leftovers}")
        return exit_codes.exit_code_of_job(status)
