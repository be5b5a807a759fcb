"""`shellrunner show`: all that is known of a job, for people or as the API's documents."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from shellrunner.cli import api_calls
from shellrunner.cli.job_ids import JOBS
from shellrunner.cli.ui import formatting
from shellrunner.cli.ui.console import Console
from shellrunner.cli.ui.job_state import standing
from shellrunner.cli.ui.table import console
from shellrunner.client import Client, ClientError

if TYPE_CHECKING:
    from shellrunner.wire.documents import Job, Result, Status

_ASKED: Final = (  # what is shown as it is, where it says anything
    "queue", "priority", "cwd", "timeout", "merge_stderr", "leave_children", "encoding", "limits", "after",
    "start_at", "retries", "notify", "tty", "stdin", "submitter", "run_as",
)  # fmt: skip
_USUAL: Final[Mapping[str, Any]] = {"queue": "default", "priority": 0, "encoding": "utf-8"}


@click.command()
@click.argument("jobs", metavar="ID...", type=JOBS, nargs=-1, required=True)
@click.option(
    "--json", "as_json", is_flag=True, help="As a line of JSON: its job, its status, and its result or null."
)
@api_calls.server
def show(jobs: tuple[int, ...], as_json: bool, server: str | None) -> NoReturn:
    """Show all that is known of these jobs."""
    terminal = Console()
    api_calls.work(server, partial(_show, jobs, terminal, as_json=as_json), terminal)


async def _show(jobs: Sequence[int], terminal: Console, client: Client, *, as_json: bool) -> int:
    async def one(job_id: int) -> int:
        job, status = await client.job(job_id), await client.status(job_id)
        result = await _result(client, job_id) if status["done"] else None
        if as_json:
            told = {"job": job, "status": status, "result": result}
            await terminal.print(json.dumps(told, ensure_ascii=False))
        else:
            await terminal.print(_sheet(list(_lines(job, status, result))))
        return 0

    return max(await api_calls.each(jobs, one, terminal))


async def _result(client: Client, job_id: int) -> "Result | None":
    try:
        return await client.result(job_id)
    except ClientError as error:
        if error.kind == "result-gone":
            return None
        raise


def _sheet(lines: Sequence[tuple[str, str, str]]) -> str:
    out = console()
    with out.capture() as captured:
        for name, text, style in lines:
            out.print(f"{name:<12}", style="dim", end="")
            out.print(formatting.visible(text) if name != "command" else text, style=style, soft_wrap=True)
    return captured.get().rstrip("\n")


def _lines(job: "Job", status: "Status", result: "Result | None") -> Iterator[tuple[str, str, str]]:
    yield "job", str(job["job_id"]), "bold"
    yield "command", formatting.visible(job["command"]), ""
    yield ("state", *standing(status))
    if result and result["detail"]:
        yield "detail", result["detail"], ""
    yield from (("label", f"{key}={value}", "") for key, value in job["labels"].items())
    for name in ("created", "started", "completed"):
        if instant := status[name]:
            yield name, f"{formatting.local(instant)} ({formatting.ago(instant)})", ""
    yield from _asked(job)
    if result:
        yield from _came(result)


def _asked(job: "Job") -> Iterator[tuple[str, str, str]]:
    if job["env"]:
        yield "env", ", ".join(job["env"]), ""
    for name in _ASKED:
        value: Any = job.get(name)
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items() if item is not None)
        if value and value != _USUAL.get(name):
            yield name, ", ".join(map(str, value)) if isinstance(value, list) else str(value), ""


def _came(result: "Result") -> Iterator[tuple[str, str, str]]:
    if result["duration"] is not None:
        yield "took", formatting.span(result["duration"]), ""
    if usage := result["usage"]:
        memory = f", {formatting.size(usage['max_rss_bytes'])} of memory" if usage["max_rss_bytes"] else ""
        yield "used", f"{usage['cpu_user'] + usage['cpu_system']:.2f} s of processor{memory}", ""
    if result["attempt"] > 1:
        yield "attempts", str(result["attempt"]), ""
    for stream in ("stdout", "stderr"):
        stored, dropped = result[f"{stream}_bytes"], result[f"{stream}_dropped"]  # type: ignore[literal-required]
        yield (
            stream,
            formatting.size(stored) + (f", and {formatting.size(dropped)} not stored" if dropped else ""),
            "",
        )
