"""`shellrunner attach`: attach this terminal to a job that runs on one, and type into it.

Must not know how connections are resumed.
"""

from functools import partial
from typing import TYPE_CHECKING, NoReturn

import click

from shellrunner.cli import api_calls, exit_codes
from shellrunner.cli.job_selection import JobSelection
from shellrunner.cli.parameters.detach_option import detach_option
from shellrunner.cli.parameters.job_ids import selected_jobs
from shellrunner.cli.parameters.job_options import JobCommand
from shellrunner.cli.terminal.detach_key import DetachKey
from shellrunner.cli.terminal.raw_mode import is_at_terminal
from shellrunner.cli.ui.console import Console
from shellrunner.client import Client
from shellrunner.errors import ShellrunnerError

if TYPE_CHECKING:
    from shellrunner.cli.terminal.attachment import AttachOptions


class NotAttachable(ShellrunnerError):
    """The job has no terminal to which one could attach."""


@click.command(cls=JobCommand)
@selected_jobs(states="running", is_own=True)
@click.option("--take", is_flag=True, help="Type into the job although another terminal does, which then watches.")
@click.option("-r", "--read-only", is_flag=True, help="Only watch: nothing is typed, and its size stays.")
@detach_option
@api_calls.server_option
def attach(*, jobs: JobSelection, take: bool, read_only: bool, detach_key: DetachKey, server: str | None) -> NoReturn:
    """Attach this terminal to a job that runs on one: show its screen, and type into it.

    Without ID it is the last of your own jobs that runs. Ctrl-\\ detaches, and leaves the job running. Any number of
    terminals may be attached to a job; one of them types, and the job's terminal has its size. The screen is drawn
    again: the end of the output is shown, and programs that draw the whole screen are asked to. The exit codes are
    those of `run`, and 0 after detaching.
    """
    if take and read_only:
        raise click.UsageError("--take cannot be combined with --read-only")
    if not is_at_terminal():
        raise click.UsageError("standard input and output must be a terminal: use `shellrunner logs -f` elsewhere")
    from shellrunner.cli.terminal import attachment  # noqa: PLC0415  it imports asyncio

    console = Console()
    api_calls.run_with_client(
        server,
        partial(_attach, jobs, console, attachment.AttachOptions(detach_key, read_only=read_only, take=take)),
        console,
        concurrent=True,
        retry_for=api_calls.RETRY_FOR_LONG,
        retry_first_for=api_calls.RETRY_FIRST_FOR,
        error_code=exit_codes.SERVICE_ERROR,
    )


async def _attach(jobs: JobSelection, console: Console, options: "AttachOptions", client: Client) -> int:
    from shellrunner.cli.terminal import attachment  # noqa: PLC0415  as above
    from shellrunner.cli.terminal.replay import prepare_replay  # noqa: PLC0415  as above

    job_id, *others = await jobs.resolve(client)
    if others:
        raise NotAttachable(f"a terminal is attached to one job, not to {len(others) + 1}")
    status = await client.status(job_id)
    if status["done"]:
        raise NotAttachable(f"job {job_id} is done: use `shellrunner logs {job_id}`")
    if (await client.job(job_id))["tty"] is None:
        raise NotAttachable(f"job {job_id} has no terminal: use `shellrunner logs -f {job_id}`")
    replay = await prepare_replay(client, job_id)
    return await attachment.Attachment(client, console, job_id, options, replay).run()
