"""`shellrunner cancel`, `rm` and `prune`: end jobs, and remove what is done from the history."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

import click

from shellrunner.cli import api_calls
from shellrunner.cli.api_calls import FAILED
from shellrunner.cli.filter_option import Filters, in_query, option
from shellrunner.cli.job_ids import JOBS
from shellrunner.cli.ui import prompt
from shellrunner.cli.ui.console import Console
from shellrunner.client import Client

_jobs = click.argument("jobs", metavar="ID...", type=JOBS, nargs=-1, required=True)
_quiet = click.option("-q", "--quiet", is_flag=True, help="Say nothing but what goes wrong.")


@click.command()
@_jobs
@_quiet
@api_calls.server
def cancel(jobs: tuple[int, ...], quiet: bool, server: str | None) -> NoReturn:
    """Ask for the end of these jobs: SIGTERM, after a grace SIGKILL. `wait` waits for it."""
    terminal = Console(quiet=quiet)
    api_calls.work(server, partial(_cancel, jobs, terminal), terminal)


@click.command()
@_jobs
@_quiet
@api_calls.server
def rm(jobs: tuple[int, ...], quiet: bool, server: str | None) -> NoReturn:
    """Remove these jobs, which must be done, from the history, with all that they wrote."""
    terminal = Console(quiet=quiet)
    api_calls.work(server, partial(_remove, jobs, terminal), terminal)


@click.command()
@option
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@_quiet
@api_calls.server
def prune(filters: Filters, yes: bool, quiet: bool, server: str | None) -> NoReturn:
    """Remove all jobs that are done, or those that the filters mean, after asking."""
    terminal = Console(quiet=quiet)
    api_calls.work(server, partial(_prune, in_query(filters), terminal, yes=yes), terminal)


async def _cancel(jobs: Sequence[int], terminal: Console, client: Client) -> int:
    async def one(job_id: int) -> int:
        status = await client.cancel(job_id)
        terminal.say(f"job {job_id} is cancelled" if status["done"] else f"job {job_id} is being ended")
        return 0

    return max(await api_calls.each(jobs, one, terminal))


async def _remove(jobs: Sequence[int], terminal: Console, client: Client) -> int:
    async def one(job_id: int) -> int:
        await client.delete(job_id)
        terminal.say(f"job {job_id} is removed")
        return 0

    return max(await api_calls.each(jobs, one, terminal))


async def _prune(query: dict[str, Any], terminal: Console, client: Client, *, yes: bool) -> int:
    if not yes:
        meant = await client.delete_many(**query)
        if not meant["deleted"]:
            terminal.say(f"there is nothing to remove{_kept(meant['kept'])}")
            return 0
        with terminal.held():
            answer = await prompt.answer(f"Remove {_many(meant['deleted'])} from the history? [y/N] ")
        if answer is None:
            terminal.say(f"{_many(meant['deleted'])} would be removed: --yes says so without asking", needed=True)
            return FAILED
        if not answer or not "yes".startswith(answer):
            terminal.say("nothing was removed")
            return FAILED
    terminal.progress.waits_for("jobs are being removed")
    done = await client.delete_many(confirm=True, **query)
    terminal.say(f"{_many(done['deleted'])} removed{_kept(done['kept'])}")
    return 0


def _many(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"


def _kept(count: int) -> str:
    return f"; {_many(count)} not done yet" if count else ""
