"""`shellrunner submit`: submit a job and print its id. `run --detach` does the same.

Must not know how a job is followed.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, NoReturn

import click

from shellrunner.cli import api_calls, exit_codes, stdin_source, surroundings
from shellrunner.cli.parameters import job_options
from shellrunner.cli.stdin_source import StdinSource
from shellrunner.cli.ui.console import Console
from shellrunner.client import Client


@click.command(cls=job_options.JobCommand, context_settings=job_options.CONTEXT_SETTINGS)
@job_options.job_options
@click.option("--json", "as_json", is_flag=True, help="Print the job as JSON instead of its id.")
def submit(stdin: str | None, server: str | None, clean: bool, as_json: bool, **options: Any) -> NoReturn:
    """Submit COMMAND, print the id of the job, and exit.

    One word is a command line for the shell, several are run as they are.
    """
    submit_detached(stdin, server, clean=clean, as_json=as_json, **options)


def submit_detached(stdin: str | None, server: str | None, *, clean: bool, as_json: bool, **options: Any) -> NoReturn:
    """Submit a job, print its id, and exit once its input is sent."""
    console = Console()
    with stdin_source.open_stdin(stdin, stream_at_once=False) as source:
        submission = job_options.submission(**options, stdin=source)
        action = partial(_submit, submission, source, console, clean=clean, as_json=as_json)
        api_calls.run_with_client(
            server,
            action,
            console,
            concurrent=source.is_streamed,
            retry_for=api_calls.RETRY_FOR_LONG,
            error_code=exit_codes.SERVICE_ERROR,
        )


async def _submit(
    submission: Mapping[str, Any],
    source: StdinSource,
    console: Console,
    client: Client,
    *,
    clean: bool,
    as_json: bool,
) -> int:
    job = await surroundings.submit(client, submission, console, clean=clean)
    await (console.print_json(job) if as_json else console.print_line(str(job["job_id"])))
    if source.is_streamed:
        console.progress.set_activity(f"sending input to job {job['job_id']}")
        await stdin_source.pipe_stdin(client, job["job_id"], source, nullcontext())
    return 0
