"""`shellrunner run`: run a command as if it ran here, with its output, its input, its exit code, and Ctrl-C.

Must not know how connections are resumed.
"""

import os
from collections.abc import Mapping
from functools import partial
from typing import Any, NoReturn

import click

from shellrunner.cli import api_calls, exit_codes, stdin_source
from shellrunner.cli.api_calls import ClientAction
from shellrunner.cli.commands.submission.submit import submit_detached
from shellrunner.cli.fd_io import STDERR, STDOUT
from shellrunner.cli.foreground import local_environment
from shellrunner.cli.parameters import job_options
from shellrunner.cli.parameters.detach_option import detach_option
from shellrunner.cli.parameters.output_options import output_option
from shellrunner.cli.terminal.detach_key import DetachKey
from shellrunner.cli.terminal.raw_mode import is_at_terminal, terminal_size
from shellrunner.cli.ui.console import Console
from shellrunner.cli.ui.output_format import OutputFormat
from shellrunner.client import Client


@click.command(cls=job_options.JobCommand, context_settings=job_options.CONTEXT_SETTINGS)
@job_options.job_options
@click.option("-d", "--detach", is_flag=True, help="Print the id of the job and exit without waiting for its end.")
@click.option("-q", "--quiet", is_flag=True, help="Do not report what the exit code shows.")
@output_option(json_help="Print the result as JSON at the end instead of the output.")
@click.option("--keep", is_flag=True, help="Let the job continue when the reader of its output has gone.")
@detach_option
def run(
    *, detach: bool, quiet: bool, output: OutputFormat | None, keep: bool, clean: bool, detach_key: DetachKey,
    stdin: str | None, server: str | None, **options: Any,
) -> NoReturn:  # fmt: skip
    r"""Run COMMAND, show its output live, and exit with its code.

    One word is a command line for the shell, several are run as they are. The current directory and the environment
    are sent along to a service on this machine. Exit codes other than the command's: 128+N terminated by signal N,
    126 not started, 125 service unreachable or request refused, 124 timeout, 123 any other ending or incomplete
    output, 130 after Ctrl-C, which asks whether to cancel the job or leave it running.

    With -t, at a terminal, all keys go to the command, Ctrl-C too, except the one that detaches and leaves it
    running: Ctrl-\. It is attached again with `attach`.
    """
    is_typed = options["tty"] and stdin is None and not output and (detach or is_at_terminal())
    keys = _terminal_keys(options["tty_size"]) if is_typed else {}
    if detach:
        submit_detached(stdin, server, clean=clean, output=output, more=keys, **options)
    console = Console(quiet=quiet)
    if options["interactive"] and not keys:
        stdin = "-"
    with stdin_source.open_stdin(stdin, stream_at_once=True) as source:
        submission = job_options.submission(**options, stdin=source) | keys
        if keys:
            action = _attached(submission, console, detach_key, clean=clean)
        else:
            from shellrunner.cli.foreground.foreground_job import ForegroundOptions, run_job  # noqa: PLC0415  it imports asyncio

            if "merge_stderr" not in submission and not output and _is_one_file(STDOUT, STDERR):
                submission["merge_stderr"] = True
            action = partial(run_job, submission, source, console, ForegroundOptions(output, keep=keep, clean=clean))
        api_calls.run_with_client(
            server,
            action,
            console,
            concurrent=True,
            retry_for=api_calls.RETRY_FOR_LONG,
            error_code=exit_codes.SERVICE_ERROR,
        )


def _terminal_keys(size: Mapping[str, int] | None) -> dict[str, Any]:
    """Return the keys of a job on a terminal of this size, or that of this one, into which somebody types."""
    rows, columns = terminal_size(STDOUT)
    tty = {"rows": rows, "columns": columns, **(size or {}), "echo": True}
    return {"tty": tty, "stdin": {"stream": True}}


def _attached(submission: dict[str, Any], console: Console, key: DetachKey, *, clean: bool) -> ClientAction:
    """Return what submits the job and attaches this terminal to it."""
    from shellrunner.cli.terminal import attachment  # noqa: PLC0415  it imports asyncio

    size = submission["tty"]["rows"], submission["tty"]["columns"]
    if "TERM" in os.environ:
        submission["env"] = {"TERM": os.environ["TERM"], **submission.get("env", {})}

    async def run_attached(client: Client) -> int:
        job = await local_environment.submit(client, submission, console, clean=clean)
        return await attachment.Attachment(client, console, job["job_id"], attachment.AttachOptions(key, size)).run()

    return run_attached


def _is_one_file(*descriptors: int) -> bool:
    """Return whether the descriptors lead to the same terminal, pipe or file: only there an order can be seen."""
    try:
        statuses = [os.fstat(descriptor) for descriptor in descriptors]
    except OSError:
        return False
    return len({(status.st_dev, status.st_ino) for status in statuses}) == 1
