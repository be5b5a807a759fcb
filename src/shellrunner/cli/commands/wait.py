"""`shellrunner wait`: stay until jobs are done, and exit as `run` would have.

Owned by the call. Must not know how connections are kept.
"""

import json
from collections.abc import Sequence
from functools import partial
from typing import NoReturn

import click

from shellrunner.cli import api_calls, exit_codes
from shellrunner.cli.commands import submit
from shellrunner.cli.job_ids import JOBS
from shellrunner.cli.ui import formatting
from shellrunner.cli.ui.console import Console
from shellrunner.client import Client


@click.command(cls=submit.JobCommand)
@click.argument("jobs", metavar="ID...", type=JOBS, nargs=-1, required=True)
@click.option("-q", "--quiet", is_flag=True, help="Do not say how they ended.")
@click.option("--json", "as_json", is_flag=True, help="Print each result as a line of JSON.")
@api_calls.server
def wait(jobs: tuple[int, ...], quiet: bool, as_json: bool, server: str | None) -> NoReturn:
    """Wait until all of these jobs are done.

    Exits as `run` would: with the code of the first of them, as they are given, whose code is not 0.
    """
    terminal = Console(quiet=quiet)
    doing = partial(_wait, jobs, terminal, as_json=as_json)
    api_calls.work(server, doing, terminal, patience=api_calls.LONG, failed=exit_codes.REFUSED)


async def _wait(jobs: Sequence[int], terminal: Console, client: Client, *, as_json: bool) -> int:
    doing = partial(_one, terminal, client, as_json=as_json)
    found = await api_calls.each(jobs, doing, terminal, failed=exit_codes.REFUSED)
    return next(filter(None, found), 0)


async def _one(terminal: Console, client: Client, job_id: int, *, as_json: bool) -> int:
    terminal.progress.waits_for(f"job {job_id} is not done yet")
    status, detail = await client.wait(job_id), None
    terminal.progress.waits_for("")
    if status["result"] and (as_json or status["ending"] != "exited"):
        result = await client.result(job_id)
        detail = result["detail"]
        if as_json:
            await terminal.print(json.dumps(result, ensure_ascii=False))
    if status["ending"] != "exited":
        terminal.say(formatting.ended(job_id, status, detail))
    return exit_codes.of(status)
