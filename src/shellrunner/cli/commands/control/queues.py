"""`shellrunner queues`: list the queues with their numbers of jobs, and change them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from types import EllipsisType
from typing import Any, Final, NamedTuple, NoReturn

import click
from click.core import ParameterSource
from click.types import StringParamType

from shellrunner import ascii_text
from shellrunner.cli import api_calls
from shellrunner.cli.parameters.output_options import output_option
from shellrunner.cli.parameters.service_values import QUEUE
from shellrunner.cli.ui import formatting
from shellrunner.cli.ui.console import Console
from shellrunner.cli.ui.output_format import TABLE, TEMPLATE, OutputFormat
from shellrunner.cli.ui.table import Cell, Column, render_table
from shellrunner.client import Client, ClientError
from shellrunner.model.names import NAME_RULE, is_queue_name

_ON_ONE: Final = ("create", "set", "rm")
_ON_ANY: Final = ("pause", "resume")
_STATES: Final = ("running", "queued", "waiting")
_COLUMNS: Final = (
    Column("QUEUE"), Column("STATE"), Column("LIMIT", right=True),
    *(Column(state.upper(), right=True) for state in _STATES), Column("OLDEST"),
)  # fmt: skip


class _Limits(NamedTuple):
    """The limits that were given: a number, None for no limit, or nothing."""

    max_running: int | EllipsisType | None
    max_queued: int | EllipsisType | None

    @property
    def given(self) -> dict[str, Any]:
        """Those that were given, as arguments of `Client.set_queue`."""
        return {name: value for name, value in self._asdict().items() if not isinstance(value, EllipsisType)}


class _LimitType(StringParamType):
    name = "n|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or None for `none`."""
        if value == "none" or not isinstance(value, str):
            return None
        if not ascii_text.is_decimal(value) or int(value) < 1:
            self.fail(f"{value!r} is neither a number of at least 1 nor none", param, ctx)
        return int(value)


def _keep_absent(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    is_given = ctx.get_parameter_source(str(param.name)) is not ParameterSource.DEFAULT
    return value if is_given else ...


def _limit_option(name: str, what: str) -> Callable[[Any], Any]:
    return click.option(
        name, type=_LimitType(), metavar="N|none", callback=_keep_absent, help=f"{what}, for create and set."
    )


@click.command()
@click.argument("action", type=click.Choice([*_ON_ONE, *_ON_ANY]), required=False)
@click.argument("name", type=QUEUE, required=False)
@_limit_option("--max-running", "Maximum number of jobs that run at once")
@_limit_option("--max-queued", "Maximum number of unstarted jobs")
@click.option("--all", "every", is_flag=True, help="Pause or resume all queues at once.")
@output_option(json_help="Print the API's document.")
@api_calls.server_option
def queues(
    *, action: str | None, name: str | None, every: bool, output: OutputFormat | None, server: str | None,
    **limits: Any,
) -> NoReturn:  # fmt: skip
    """List the queues, or create, set, pause, resume or remove one.

    No job of a paused queue starts, running jobs continue. What is changed stays so when the service restarts. A
    queue of the configuration can be changed, but not removed.
    """
    request = _QueueAction(action, name, _Limits(**limits))
    request.check(every=every)
    console = Console()
    api_calls.run_with_client(server, partial(_run, request, output, console), console)


_ON_ALL: Final[Mapping[str | None, Callable[[Client], Awaitable[Mapping[str, Any]]]]] = {
    None: Client.queues, "pause": Client.pause_all, "resume": Client.resume_all,
}  # fmt: skip


class _QueueAction(NamedTuple):
    """What is to be done with which queue; None: with all of them."""

    action: str | None
    name: str | None
    limits: _Limits

    def check(self, *, every: bool) -> None:
        """Check that the action has what it needs.

        Raises:
            click.UsageError: it does not.
        """
        if every and self.action not in _ON_ANY:
            raise click.UsageError("--all requires pause or resume")
        if self.action in _ON_ANY and (self.name is None) != every:
            raise click.UsageError(f"{self.action} requires either the name of a queue or --all")
        if self.name is not None and self.action is None:
            raise click.UsageError("an action is required before the name of a queue")
        if self.action in _ON_ONE and self.name is None:
            raise click.UsageError(f"{self.action} requires the name of a queue")
        if self.name is not None and not is_queue_name(self.name):
            raise click.UsageError(f"invalid name of a queue {self.name!r}: expected {NAME_RULE}")
        if self.limits.given and self.action not in {"create", "set"}:
            raise click.UsageError("--max-running and --max-queued require create or set")
        if self.action == "set" and not self.limits.given:
            raise click.UsageError("set requires --max-running or --max-queued")

    async def send(self, client: Client) -> Mapping[str, Any] | None:
        """Send it; return the document of the response."""
        if self.name is None:
            return await _ON_ALL[self.action](client)
        match self.action:
            case "create":
                return await self._create(self.name, client)
            case "set":
                queue = await client.queue(self.name)  # what is not given stays
                now = {"max_running": queue["limit"], "max_queued": queue["max_queued"]}
                return await client.set_queue(self.name, **now | self.limits.given)
            case "rm":
                await client.delete_queue(self.name)
                return None
        return await (client.pause(self.name) if self.action == "pause" else client.resume(self.name))

    async def _create(self, name: str, client: Client) -> Mapping[str, Any]:
        try:
            return await client.set_queue(name, new=True, **self.limits.given)
        except ClientError as error:
            if error.kind == "precondition-failed":
                error.detail = f"queue {name!r} exists already: use `shellrunner queues set {name}` to change it"
            raise


async def _run(request: _QueueAction, output: OutputFormat | None, console: Console, client: Client) -> int:
    document = await request.send(client)
    if document is None:
        console.report(f"queue {request.name} was removed")
        return 0
    if output and output.kind != TABLE:
        # The document as it is for JSON, the queues one by one for a template.
        documents = document.get("queues", [document]) if output.kind == TEMPLATE else [document]
        await output.print(console, documents, is_list=False)
        return 0
    await console.print_line(_table(document.get("queues", [document])))
    if held := document.get("held"):
        console.report(f"jobs are held: {held['reason']}: use `shellrunner queues resume --all` to release them")
    elif document["paused"] and "queues" in document:
        console.report("all queues are paused: use `shellrunner queues resume --all` to resume them")
    return 0


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    return render_table(
        _COLUMNS,
        [
            [
                Cell(row["queue"]),
                Cell("paused", "yellow") if row["paused"] else Cell("open", "green"),
                Cell("-" if row["limit"] is None else str(row["limit"])),
                *(Cell(str(row[state])) for state in _STATES),
                Cell(formatting.format_age(row["oldest"]) if row["oldest"] else "", "dim"),
            ]
            for row in rows
        ],
    )
