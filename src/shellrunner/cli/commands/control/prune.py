"""`shellrunner prune`: delete all jobs that match filters, after confirmation."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NoReturn

import click

from shellrunner.cli import api_calls, exit_codes
from shellrunner.cli.job_query import Filters, filter_option, filter_query
from shellrunner.cli.ui import prompt
from shellrunner.cli.ui.console import Console
from shellrunner.cli.ui.formatting import count_of
from shellrunner.client import Client


@click.command()
@filter_option
@click.option("-y", "--yes", is_flag=True, help="Delete without confirmation.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@api_calls.server_option
def prune(filters: Filters, yes: bool, quiet: bool, server: str | None) -> NoReturn:
    """Delete all jobs that are done, or those that match the filters, after confirmation."""
    console = Console(quiet=quiet)
    api_calls.run_with_client(server, partial(_prune, filter_query(filters), console, yes=yes), console)


async def _prune(query: Mapping[str, Any], console: Console, client: Client, *, yes: bool) -> int:
    if not yes:
        matching = await client.delete_many(**query)
        if not matching["deleted"]:
            console.report(f"no jobs to delete{_kept(matching['kept'])}")
            return 0
        jobs = count_of(matching["deleted"], "job")
        question = f"Delete {jobs} from the history"
        otherwise = f"use --yes to delete {jobs}"
        if not await prompt.confirm(question, console, refusal="nothing was deleted", otherwise=otherwise):
            return exit_codes.FAILED
    console.progress.set_activity("deleting jobs")
    removed = await client.delete_many(confirm=True, **query)
    console.report(f"deleted {count_of(removed['deleted'], 'job')}{_kept(removed['kept'])}")
    return 0


def _kept(count: int) -> str:
    return f"; kept {count_of(count, 'job')} not done yet" if count else ""
