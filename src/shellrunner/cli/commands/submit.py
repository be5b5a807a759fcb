"""`shellrunner submit`: have a command run, and go. Also what `run` and `submit` have in common: how a job is told.

Arguments become the body of a POST. Must not know how a job is followed.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn, TypeVar

import click

from shellrunner.cli import api_calls, exit_codes, stdin_source
from shellrunner.cli.stdin_source import StdinSource
from shellrunner.cli.ui import formatting
from shellrunner.cli.ui.console import Console
from shellrunner.client import Client, JobOptions

F = TypeVar("F", bound=Callable[..., Any])
Pairs = tuple[tuple[str, str], ...]


class JobCommand(click.Command):
    """A verb with a foreign code to exit with: its own troubles have one that commands hardly use."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the arguments."""
        with _refused():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Do it."""
        with _refused():
            return super().invoke(ctx)


@contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        error.show()
        sys.exit(exit_codes.REFUSED)


def _seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else formatting.seconds(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


def _utf8(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    for text in value if isinstance(value, tuple) else (value,):
        if (
            isinstance(text, str)
            and not text.isprintable()
            and any("\ud800" <= letter <= "\udfff" for letter in text)
        ):
            raise click.BadParameter("is not UTF-8, and a request is", ctx, param)
    return value


def _pairs(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> Pairs:
    found = []
    for text in _utf8(ctx, param, value):
        name, equals, content = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r} must be NAME=VALUE", ctx, param)
        found.append((name, content))
    return tuple(found)


def _variables(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> Pairs:
    full = []
    for text in value:
        if "=" not in text and text not in os.environ:
            raise click.BadParameter(f"{text!r} is not set here, and so must be NAME=VALUE", ctx, param)
        full.append(text if "=" in text else f"{text}={os.environ[text]}")
    return _pairs(ctx, param, tuple(full))


_OPTIONS = (
    click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, callback=_utf8),
    click.option("--cwd", metavar="DIR", callback=_utf8, help="Where it starts; one that is relative begins here."),
    click.option(
        "-e", "--env", metavar="NAME[=VALUE]", multiple=True, callback=_variables,
        help="A variable for it; without a value, as it is set here. May be repeated.",
    ),
    click.option(
        "--stdin", metavar="FILE|-", help="What it reads: a file, or - for standard input here. Else nothing."
    ),
    click.option("--timeout", metavar="TIME", callback=_seconds, help="End it after 90, 1.5s, 5m, 1h30m."),
    click.option("--queue", metavar="NAME", callback=_utf8, help="The queue in which it waits."),
    click.option(
        "--label", metavar="KEY=VALUE", multiple=True, callback=_pairs, help="To find it by. May be repeated."
    ),
    click.option("--name", metavar="NAME", callback=_utf8, help="The same as --label name=NAME."),
    api_calls.server,
)  # fmt: skip

context = {"allow_interspersed_args": False}  # what follows the first word of the command is the command's


def options(verb: F) -> F:
    """Take everything by which a job can be told."""
    for option in reversed(_OPTIONS):
        verb = option(verb)
    return verb


def spec(
    *, command: Sequence[str], cwd: str | None, env: Pairs, timeout: float | None, queue: str | None, label: Pairs,
    name: str | None, stdin: StdinSource,
) -> dict[str, Any]:  # fmt: skip
    """What `Client.submit` takes. One word is a line for the shell, several are run as they are."""
    what: dict[str, Any] = {"command": command[0]} if len(command) == 1 else {"argv": list(command)}
    labels = dict(label) | ({"name": name} if name is not None else {})
    rest: JobOptions = {"cwd": None if cwd is None else os.path.abspath(cwd), "stdin": stdin.spec, "timeout": timeout}
    if env:
        rest["env"] = dict(env)
    if queue is not None:
        rest["queue"] = queue
    if labels:
        rest["labels"] = labels
    return {**what, **rest}


@click.command(cls=JobCommand, context_settings=context)
@options
@click.option("--json", "as_json", is_flag=True, help="Print the job, not only its number.")
def submit(stdin: str | None, server: str | None, as_json: bool, **told: Any) -> NoReturn:
    """Have COMMAND run, print the job's number, and go.

    One word is a line for the shell, several are run as they are.
    """
    detached(stdin, server, as_json=as_json, **told)


def detached(stdin: str | None, server: str | None, *, as_json: bool, **told: Any) -> NoReturn:
    """Submit, print the number, and go as soon as all input is given."""
    terminal = Console()
    with stdin_source.opened(stdin, at_once=False) as source:
        doing = partial(_submit, spec(**told, stdin=source), source, terminal, as_json=as_json)
        api_calls.work(server, doing, terminal, patience=api_calls.LONG, failed=exit_codes.REFUSED)


async def _submit(
    asked: dict[str, Any], source: StdinSource, terminal: Console, client: Client, *, as_json: bool
) -> int:
    job = await client.submit(**asked)
    await terminal.print(json.dumps(job, ensure_ascii=False) if as_json else str(job["job_id"]))
    if source.is_streamed:
        terminal.progress.waits_for(f"job {job['job_id']} is given its input")
        await stdin_source.feed(client, job["job_id"], source, asyncio.Lock())
    return 0
