"""`shellrunner edit`: change jobs that have not started, by options or in an editor."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final, NoReturn

import click

from shellrunner.cli import api_calls, exit_codes, job_request
from shellrunner.cli.job_selection import JobSelection
from shellrunner.cli.parameters.job_ids import selected_jobs
from shellrunner.cli.parameters.job_options import scheduling_options
from shellrunner.cli.ui import editor
from shellrunner.cli.ui.console import Console
from shellrunner.cli.ui.formatting import count_of
from shellrunner.cli.ui.prompt import confirm
from shellrunner.client import Client

_EDITABLE: Final = ("name", "queue", "priority", "labels", "after", "start_at", "timeout", "held")


@click.command()
@selected_jobs(states="waiting,queued", bulk="Change", is_own=True)
@scheduling_options
@click.option("--unlabel", metavar="KEY", multiple=True, help="Remove a label. Repeatable.")
@click.option(
    "--no",
    "removed",
    type=click.Choice(["name", "at", "after", "timeout"]),
    multiple=True,
    help="Remove what was set. Repeatable.",
)
@click.option("-y", "--yes", is_flag=True, help="Change those of --filter or --all without confirmation.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@api_calls.server_option
def edit(
    *, jobs: JobSelection, unlabel: tuple[str, ...], removed: tuple[str, ...], yes: bool, quiet: bool,
    server: str | None, **options: Any,
) -> NoReturn:  # fmt: skip
    """Change jobs that have not started: by options, or without any in $VISUAL or $EDITOR.

    Without ID it is the last of your own jobs that has not started.
    """
    changes = job_request.spec_of(options)
    if unlabel:
        changes["labels"] = changes.get("labels", {}) | dict.fromkeys(unlabel)
    changes |= {"start_at" if name == "at" else name: None for name in removed}
    console = Console(quiet=quiet)
    api_calls.run_with_client(server, partial(_edit, jobs, changes, console, yes=yes), console)


async def _edit(
    jobs: JobSelection, changes: Mapping[str, Any], console: Console, client: Client, *, yes: bool
) -> int:
    job_ids = await jobs.resolve(client)
    if changes and jobs.is_bulk and len(job_ids) > 1 and not yes:  # in an editor each is looked at by itself
        count = count_of(len(job_ids), "job")
        otherwise = f"use --yes to change {count}"
        if not await confirm(f"Change {count}", console, refusal="nothing was changed", otherwise=otherwise):
            return exit_codes.FAILED
    changes = {**changes, **await job_request.resolved_after(client, changes)}

    async def edit_job(job_id: int) -> str:
        patch = changes or await _ask(client, job_id)
        with job_request.errors_name_flags():
            await client.edit(job_id, patch)
        return f"job {job_id} was changed: {', '.join(patch)}"

    return await api_calls.report_each(job_ids, edit_job, console)


async def _ask(client: Client, job_id: int) -> Mapping[str, Any]:
    job: Any = await client.job(job_id)
    document = {key: job.get(key) for key in _EDITABLE}
    return editor.edit(document, f"job {job_id}: {job['command']}")
