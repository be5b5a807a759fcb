"""`shellrunner again`: submit earlier jobs once more, as they were or with changes."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final, NamedTuple, NoReturn

import click

from shellrunner.cli import api_calls, exit_codes, job_request, stdin_source
from shellrunner.cli.foreground import local_environment
from shellrunner.cli.job_selection import JobSelection
from shellrunner.cli.listing.job_printer import JobPrinter
from shellrunner.cli.parameters.job_ids import selected_jobs
from shellrunner.cli.parameters.job_options import JobCommand, replacing_options
from shellrunner.cli.parameters.output_options import output_option
from shellrunner.cli.ui import editor
from shellrunner.cli.ui.console import Console
from shellrunner.cli.ui.formatting import count_of
from shellrunner.cli.ui.output_format import OutputFormat
from shellrunner.cli.ui.prompt import confirm
from shellrunner.client import Client
from shellrunner.model.endings import ENDINGS, Ending
from shellrunner.model.names import MAX_EXIT_CODE

_DONE: Final = "done"
# What counts as failed: every other end of its own than an exit with 0.
_FAILED: Final = (
    {"ending": Ending.EXITED.value, "exit_code": ",".join(map(str, range(1, MAX_EXIT_CODE + 1)))},
    {"ending": ",".join(ending for ending in ENDINGS if ENDINGS[ending].retryable and ending != Ending.EXITED)},
)
_IN_EDITOR: Final = (
    "command", "argv", "name", "cwd", "queue", "profile", "priority", "labels", "timeout", "merge_stderr",
    "leave_children", "encoding", "limits", "retries", "tty",
)  # fmt: skip


class _AgainOptions(NamedTuple):
    """How jobs are submitted again: changes to them, the idempotency key, and how the new jobs are printed."""

    changes: Mapping[str, Any]
    key: str | None
    clean: bool
    edit: bool
    yes: bool
    output: OutputFormat | None


@click.command(cls=JobCommand)
@selected_jobs(states=_DONE, bulk="Submit again", is_own=True)
@click.option("--failed", is_flag=True, help="Submit again all jobs that failed, or those of them that match.")
@click.option("--edit", is_flag=True, help="Change each job in $VISUAL or $EDITOR first.")
@click.option("--command", metavar="LINE", help="Run this line for the shell instead.")
@replacing_options
@click.option("--clean", is_flag=True, help="Submit without the environment variables and the input of the job.")
@click.option("-y", "--yes", is_flag=True, help="Submit several jobs without confirmation.")
@output_option(json_help="Print each new job as JSON instead of its id.")
@api_calls.server_option
def again(
    *, jobs: JobSelection, failed: bool, edit: bool, command: str | None, key: str | None, clean: bool, yes: bool,
    output: OutputFormat | None, stdin: str | None, server: str | None, **options: Any,
) -> NoReturn:  # fmt: skip
    """Submit earlier jobs again, and print the ids of the new ones.

    Without ID it is the last of your own jobs that is done. Options replace what the job had. The service does not
    keep the values of environment variables, nor the input. In a job that you submitted on this machine, variables
    get the values that they have here. Otherwise set them with `-e`, and the input with `--stdin`: a job of somebody
    else gets nothing of your environment that you do not name.
    """
    console = Console()
    with stdin_source.open_stdin(stdin, stream_at_once=False) as source:
        changes = job_request.spec_of(options) | ({"command": command, "argv": None} if command else {})
        if stdin is not None:
            changes["stdin"] = source.text or ""
            if source.is_streamed:
                raise click.UsageError("--stdin of `again` is limited to 512 KiB of text")
        again_options = _AgainOptions(changes, key, clean=clean, edit=edit, yes=yes, output=output)
        action = partial(_again, jobs, again_options, console, failed=failed)
        api_calls.run_with_client(server, action, console, error_code=exit_codes.SERVICE_ERROR)


async def _again(
    jobs: JobSelection, options: _AgainOptions, console: Console, client: Client, *, failed: bool
) -> int:
    ids = await (_failed_jobs(jobs, client) if failed else jobs.resolve(client))
    if (failed or jobs.is_bulk) and len(ids) > 1 and not (options.yes or options.edit):
        count = count_of(len(ids), "job")
        otherwise = f"use --yes to submit {count}"
        if not await confirm(f"Submit {count} again", console, refusal="nothing was submitted", otherwise=otherwise):
            return exit_codes.FAILED
    owner = None if options.clean else await local_environment.local_identity(client)
    changes = {**options.changes, **await job_request.resolved_after(client, options.changes)}
    printer = JobPrinter(options.output, console, client) if options.output else None

    async def submit_again(job_id: int) -> int:
        key = f"{options.key}-{job_id}" if options.key and len(ids) > 1 else options.key
        patch = await _patch(client, job_id, changes, options, owner)
        with job_request.errors_name_flags():
            job = await client.again(job_id, patch, key=key)
        if printer:
            await printer.add(job["job_id"], job)
        else:
            await console.print_line(str(job["job_id"]))
        return 0

    try:
        codes = await api_calls.for_each_job(ids, submit_again, console, error_code=exit_codes.SERVICE_ERROR)
    finally:
        if printer:
            await printer.finish()
    return max(codes, default=0)


async def _patch(
    client: Client, job_id: int, changes: Mapping[str, Any], options: _AgainOptions, owner: str | None
) -> Mapping[str, Any]:
    """Return what the new job has differently: in a job that the `owner` submitted, variables have their values here.

    The submitter chose which variables a job has. Filled in to the job of somebody else, they would hand over secrets
    of this environment to its command.
    """
    job: Any = await client.job(job_id)
    patch = dict(changes)
    if options.clean:
        patch = {"stdin": None, **patch, "env": {**dict.fromkeys(job["env"]), **patch.get("env", {})}}
    elif owner is not None and job["submitter"] == owner:
        here = local_environment.values_of(job["env"])
        if "PWD" in job["env"] and job["cwd"]:
            here["PWD"] = patch.get("cwd") or job["cwd"]
        patch["env"] = {**here, **patch.get("env", {})}
    if options.edit:
        shown = {key: job.get(key) for key in _IN_EDITOR if key != "command" or job["argv"] is None}
        patch |= editor.edit(shown, f"job {job_id}")
    return patch


async def _failed_jobs(jobs: JobSelection, client: Client) -> list[int]:
    if jobs.ids:
        raise click.UsageError("--failed cannot be combined with ids")
    found: list[int] = []
    for endings in _FAILED:
        query = {**jobs.query, **endings}
        found += [job["job_id"] async for job in client.jobs(**query, sort="created", fields="job_id")]
    return sorted(found)
