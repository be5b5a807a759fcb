"""`shellrunner show`: everything about a job, for people or as the API's documents."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from shellrunner import control_characters
from shellrunner.cli import api_calls
from shellrunner.cli.job_selection import JobSelection
from shellrunner.cli.listing.job_printer import JobPrinter
from shellrunner.cli.parameters.job_ids import selected_jobs
from shellrunner.cli.parameters.output_options import output_option
from shellrunner.cli.ui import formatting
from shellrunner.cli.ui.ansi import Styler
from shellrunner.cli.ui.console import Console
from shellrunner.cli.ui.job_state import state_cell
from shellrunner.cli.ui.output_format import OutputFormat
from shellrunner.cli.ui.table import Cell, terminal_width
from shellrunner.client import Client, ClientError

if TYPE_CHECKING:
    from shellrunner.wire.documents import Job, Result, Status

_OPTIONS: Final = (  # keys of a job that are shown unless they have their default value
    "queue", "profile", "priority", "cwd", "timeout", "merge_stderr", "leave_children", "encoding", "limits", "after",
    "start_at", "retries", "notify", "tty", "stdin", "submitter", "run_as",
)  # fmt: skip
_DEFAULTS: Final[Mapping[str, Any]] = {"queue": "default", "priority": 0, "encoding": "utf-8"}

_INDENT: Final = 12  # columns before the text of a field

Field = tuple[str, Cell]


@click.command()
@selected_jobs()
@output_option(json_help="Print a line of JSON: job, status, and result or null.")
@api_calls.server_option
def show(jobs: JobSelection, output: OutputFormat | None, server: str | None) -> NoReturn:
    """Show everything about jobs: their options, status and result.

    Without ID it is the last job.
    """
    console = Console()
    api_calls.run_with_client(server, partial(_show, jobs, output, console), console)


async def _show(jobs: JobSelection, output: OutputFormat | None, console: Console, client: Client) -> int:
    printer = JobPrinter(output, console, client) if output else None
    shown = 0

    async def show_job(job_id: int) -> int:
        nonlocal shown
        job, status = await client.job(job_id), await client.status(job_id)
        result = await _result(client, job_id) if status["done"] else None
        if printer:
            await printer.add(job_id, {"job": job, "status": status, "result": result})
        else:
            await console.print_line(("\n" if shown else "") + _render(_fields(job, status, result)))
            shown += 1
        return 0

    code = max(await api_calls.for_each_job(await jobs.resolve(client), show_job, console), default=0)
    if printer:
        await printer.finish()
    return code


async def _result(client: Client, job_id: int) -> "Result | None":
    try:
        return await client.result(job_id)
    except ClientError as error:
        if error.kind == "result-gone":
            return None
        raise


def _render(fields: Iterator[Field]) -> str:
    styler, width = Styler(), terminal_width()
    return "\n".join(
        styler.apply(f"{name:<{_INDENT}}", "dim") + styler.apply(_wrapped(name, cell.text, width), cell.style)
        for name, cell in fields
    )


def _wrapped(name: str, text: str, width: int | None) -> str:
    """Return the text of a field, with a long list on several lines of a terminal."""
    text = control_characters.escape(text)
    if name != "env" or width is None or len(text) <= width - _INDENT:
        return text
    import textwrap  # noqa: PLC0415  only here

    lines = textwrap.wrap(text, max(width - _INDENT, 1), break_long_words=False, break_on_hyphens=False)
    return f"\n{' ' * _INDENT}".join(lines)


def _fields(job: "Job", status: "Status", result: "Result | None") -> Iterator[Field]:
    yield "job", Cell(str(job["job_id"]), "bold")
    yield "command", Cell(job["command"])
    yield "state", state_cell(status)
    if result and result["detail"]:
        yield "detail", Cell(result["detail"])
    if result and (found := result.get("found")):
        yield "found", Cell(formatting.describe_found(found))
    if host := status.get("host"):
        unreachable = status.get("unreachable")
        since = f", not reachable since {formatting.format_moment(unreachable['since'])}" if unreachable else ""
        yield "host", Cell(host + since, "red" if unreachable else "")
    if pid := status.get("pid"):
        yield "pid", Cell(str(pid))
    yield from (("label", Cell(f"{key}={value}")) for key, value in job["labels"].items())
    for name in ("created", "started", "completed"):
        if time := status[name]:
            yield name, Cell(formatting.format_moment(time))
    yield from _option_fields(job)
    if result:
        yield from _result_fields(result)


def _option_fields(job: "Job") -> Iterator[Field]:
    if job["env"]:
        yield "env", Cell(", ".join(sorted(job["env"])))
    for name in _OPTIONS:
        value: Any = job.get(name)
        if value and value != _DEFAULTS.get(name) and (text := _FORMATS.get(name, _text)(value)):
            yield name, Cell(text)


def _text(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(_text, value))
        case dict():
            return ", ".join(f"{key} {_text(item)}" for key, item in value.items() if item is not None)
    return str(value)


def _retries(retries: Mapping[str, Any]) -> str:
    delay = f", {formatting.format_duration(retries['delay'])} after" if retries["delay"] else ", at once after"
    return f"at most {retries['max']}{delay} {' or '.join(retries['on'])}"


def _limits(limits: Mapping[str, Any]) -> str:
    amounts = {
        name: formatting.format_size(value) if name.endswith("_bytes") else str(value)
        for name, value in limits.items()
        if value is not None
    }
    return ", ".join(f"{name.removesuffix('_bytes')} {amount}" for name, amount in amounts.items())


_FORMATS: Final[Mapping[str, Callable[[Any], str]]] = {
    "timeout": formatting.format_duration,
    "limits": _limits,
    "start_at": formatting.format_moment,
    "retries": _retries,
    "notify": lambda callback: (
        f"{callback['state']}, {callback['tries']} tries" + (f": {callback['error']}" if callback["error"] else "")
    ),
    "tty": lambda size: f"{size['rows']}x{size['columns']}",
    "stdin": lambda stdin: "streamed" if "stream" in stdin else "text, which is not kept",
}


def _result_fields(result: "Result") -> Iterator[Field]:
    if result["duration"] is not None:
        yield "duration", Cell(formatting.format_duration(result["duration"]))
    if usage := result["usage"]:
        max_rss = usage["max_rss_bytes"]
        memory = f", {formatting.format_size(max_rss)} of memory" if max_rss else ""
        yield "usage", Cell(f"{usage['cpu_user'] + usage['cpu_system']:.2f} s of CPU{memory}")
    if leftovers := formatting.describe_leftovers(result):
        yield "leftovers", Cell(leftovers)
    if result["attempt"] > 1:
        yield "attempts", Cell(str(result["attempt"]))
    for stream in ("stdout", "stderr"):
        stored, dropped = result[f"{stream}_bytes"], result[f"{stream}_dropped"]  # type: ignore[literal-required]
        missing = f", and {formatting.format_size(dropped)} not stored" if dropped else ""
        yield stream, Cell(formatting.format_size(stored) + missing)
