"""`shellrunner send`: write to the standard input of running commands."""

from functools import partial
from typing import Final, NoReturn

import click

from shellrunner.cli import api_calls
from shellrunner.cli.fd_io import STDIN, read_chunks
from shellrunner.cli.job_selection import JobSelection
from shellrunner.cli.parameters.job_ids import selected_jobs
from shellrunner.cli.ui.console import Console
from shellrunner.client import Client, ClientError

_MAX_WRITE: Final = 1 << 20  # bytes of one request
_CLOSED: Final = "the input of job {} is not open: it was closed, or the job was submitted without -i or `run -t`"


@click.command()
@click.argument("text", type=click.UNPROCESSED)
@selected_jobs(states="running", is_own=True)
@click.option("-n", "--no-newline", is_flag=True, help="Do not add a line end to TEXT.")
@click.option("--end", is_flag=True, help="End the input after TEXT.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@api_calls.server_option
def send(*, text: str, jobs: JobSelection, no_newline: bool, end: bool, quiet: bool, server: str | None) -> NoReturn:
    """Write the line TEXT, or with - this process's own input, to the standard input of running commands.

    Without ID it is the last of your own jobs that is running. The jobs must have been submitted with an input
    that is open: with `-i`, or by `run -t`.
    """
    console = Console(quiet=quiet)
    line = b"" if end and not text else text.encode(errors="surrogateescape") + (b"" if no_newline else b"\n")
    action = partial(_send, None if text == "-" else line, jobs, console, end=end)
    api_calls.run_with_client(server, action, console)


async def _send(line: bytes | None, jobs: JobSelection, console: Console, client: Client, *, end: bool) -> int:
    data = await _read_stdin() if line is None else line

    async def send_to_job(job_id: int) -> str:
        for start in range(0, max(len(data), 1), _MAX_WRITE):
            is_last = start + _MAX_WRITE >= len(data)
            try:
                await client.write_stdin(job_id, data[start : start + _MAX_WRITE], end=end and is_last)
            except ClientError as error:
                if error.kind == "input-closed":
                    error.detail = _CLOSED.format(job_id)
                raise
        return f"job {job_id} was sent {len(data)} bytes"

    return await api_calls.report_each(await jobs.resolve(client), send_to_job, console)


async def _read_stdin() -> bytes:
    from contextlib import nullcontext  # noqa: PLC0415  only here

    return b"".join([chunk async for chunk in read_chunks(STDIN, nullcontext())])
