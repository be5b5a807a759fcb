"""`shellrunner submit`: submit a job and print its id. `run --detach` does the same.

Must not know how a job is followed.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from types import MappingProxyType
from typing import Any, NoReturn

import click

from shellrunner.cli import api_calls, exit_codes, stdin_source
from shellrunner.cli.foreground import local_environment
from shellrunner.cli.listing.job_printer import JobPrinter
from shellrunner.cli.parameters import job_options
from shellrunner.cli.parameters.output_options import output_option
from shellrunner.cli.stdin_source import StdinSource
from shellrunner.cli.ui.console import Console
from shellrunner.cli.ui.output_format import OutputFormat
from shellrunner.client import Client


@click.command(cls=job_options.JobCommand, context_settings=job_options.CONTEXT_SETTINGS)
@job_options.job_options
@output_option(json_help="Print the job as JSON instead of its id.")
def submit(
    stdin: str | None, server: str | None, clean: bool, output: OutputFormat | None, **options: Any
) -> NoReturn:
    """Submit COMMAND, print the id of the job, and exit.

    One word is a command line for the shell, several are run as they are.
    """
    submit_detached(stdin, server, clean=clean, output=output, **options)


def submit_detached(
    stdin: str | None, server: str | None, *, clean: bool, output: OutputFormat | None,
    more: Mapping[str, Any] = MappingProxyType({}), **options: Any,
) -> NoReturn:  # fmt: skip
    """Submit a job, with more keys than the options set; print its id, and exit once its input is sent."""
    console = Console()
    with stdin_source.open_stdin(stdin, stream_at_once=False) as source:
        submission = {**job_options.submission(**options, stdin=source), **more}
        action = partial(_submit, submission, source, output, console, clean=clean)
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
    output: OutputFormat | None,
    console: Console,
    client: Client,
    *,
    clean: bool,
) -> int:
    job = await local_environment.submit(client, submission, console, clean=clean)
    if output:
        printer = JobPrinter(output, console, client, is_list=False)
        await printer.add(job["job_id"], job)
        await printer.finish()
    else:
        await console.print_line(str(job["job_id"]))
    if source.is_streamed:
        console.progress.set_activity(f"sending input to job {job['job_id']}")
        await stdin_source.pipe_stdin(client, job["job_id"], source, nullcontext())
    return 0
