"""`shellrunner run`: run a command as if it ran here, with its output, its input, its exit code, and Ctrl-C.

Must not know how connections are resumed.
"""

from functools import partial
from typing import Any, NoReturn

import click

from shellrunner.cli import api_calls, exit_codes, stdin_source
from shellrunner.cli.commands.submission.submit import submit_detached
from shellrunner.cli.parameters import job_options
from shellrunner.cli.ui.console import Console


@click.command(cls=job_options.JobCommand, context_settings=job_options.CONTEXT_SETTINGS)
@job_options.job_options
@click.option("-d", "--detach", is_flag=True, help="Print the id of the job and exit without waiting for its end.")
@click.option("-q", "--quiet", is_flag=True, help="Do not report what the exit code shows.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON at the end instead of the output.")
def run(detach: bool, quiet: bool, as_json: bool, stdin: str | None, server: str | None, **options: Any) -> NoReturn:
    """Run COMMAND, show its output live, and exit with its code.

    One word is a command line for the shell, several are run as they are. Exit codes other than the command's: 128+N
    terminated by signal N, 126 not started, 125 service unreachable or request refused, 124 timeout, 123 any other
    ending or incomplete output, 130 after Ctrl-C, which asks whether to cancel the job or leave it running.
    """
    if detach:
        submit_detached(stdin, server, as_json=as_json, **options)
    from shellrunner.cli.foreground_job import run_job  # noqa: PLC0415  it imports asyncio

    console = Console(quiet=quiet)
    with stdin_source.open_stdin(stdin, stream_at_once=True) as source:
        submission = job_options.submission(**options, stdin=source)
        action = partial(run_job, submission, source, console, as_json=as_json)
        api_calls.run_with_client(
            server,
            action,
            console,
            concurrent=True,
            retry_for=api_calls.RETRY_FOR_LONG,
            error_code=exit_codes.SERVICE_ERROR,
        )
