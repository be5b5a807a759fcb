"""The arguments and options by which `run` and `submit` describe a job, and the request made from them.

Must not know how a job is followed.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import click

from shellrunner.cli import boundary, exit_codes
from shellrunner.cli.api_calls import server_option
from shellrunner.cli.stdin_source import StdinSource
from shellrunner.cli.ui import formatting
from shellrunner.client import JobOptions

F = TypeVar("F", bound=Callable[..., Any])
Pairs = tuple[tuple[str, str], ...]

# What follows the first word of COMMAND belongs to it, options included.
CONTEXT_SETTINGS: Final = {"allow_interspersed_args": False}


class JobCommand(click.Command):
    """A verb that exits with the code of a job: usage errors get a code that commands hardly ever use."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the arguments."""
        with _usage_error_code():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb."""
        with _usage_error_code():
            return super().invoke(ctx)


@contextmanager
def _usage_error_code() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        boundary.show(error)
        sys.exit(exit_codes.SERVICE_ERROR)


def _parse_duration(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else formatting.parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


def _check_utf8(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    # Python decodes an argument's invalid bytes to lone surrogates, which JSON in UTF-8 cannot have.
    for text in value if isinstance(value, tuple) else (value,):
        if (
            isinstance(text, str)
            and not text.isprintable()
            and any("\ud800" <= letter <= "\udfff" for letter in text)
        ):
            raise click.BadParameter("must be valid UTF-8", ctx, param)
    return value


def _parse_pairs(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> Pairs:
    pairs = []
    for text in _check_utf8(ctx, param, value):
        name, equals, content = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r} must be {param.metavar}", ctx, param)
        pairs.append((name, content))
    return tuple(pairs)


def _parse_variables(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> Pairs:
    complete = []
    for text in value:
        if "=" not in text and text not in os.environ:
            raise click.BadParameter(f"{text!r} is not set in the environment: use NAME=VALUE", ctx, param)
        complete.append(text if "=" in text else f"{text}={os.environ[text]}")
    return _parse_pairs(ctx, param, tuple(complete))


_OPTIONS: Final = (
    click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, callback=_check_utf8),
    click.option(
        "--cwd", metavar="DIR", callback=_check_utf8,
        help="Working directory of the command (default: the current one, if the service is on this machine).",
    ),
    click.option(
        "-e", "--env", metavar="NAME[=VALUE]", multiple=True, callback=_parse_variables,
        help="Set an environment variable; without a value, to its value here. Repeatable.",
    ),
    click.option(
        "--clean", is_flag=True,
        help="Send neither the current directory nor the environment to a service on this machine.",
    ),
    click.option(
        "--stdin", metavar="FILE|-", help="Standard input: a file, or - for this process's own (default: empty)."
    ),
    click.option(
        "--timeout", metavar="TIME", callback=_parse_duration, help="Terminate it after 90, 1.5s, 5m, 1h30m."
    ),
    click.option("--queue", metavar="NAME", callback=_check_utf8, help="Queue of the job."),
    click.option("--profile", metavar="NAME", callback=_check_utf8, help="Profile that confines the command."),
    click.option(
        "--label", metavar="KEY=VALUE", multiple=True, callback=_parse_pairs, help="Label to search by. Repeatable."
    ),
    click.option("--name", metavar="NAME", callback=_check_utf8, help="Short for --label name=NAME."),
    server_option,
)  # fmt: skip


def job_options(verb: F) -> F:
    """Add the argument and the options that describe a job."""
    for option in reversed(_OPTIONS):
        verb = option(verb)
    return verb


def _absolute(cwd: str) -> str:
    try:
        return os.path.abspath(cwd)
    except FileNotFoundError:
        raise click.UsageError(f"--cwd {cwd}: the current directory does not exist any more") from None


def submission(
    *, command: Sequence[str], cwd: str | None, env: Pairs, timeout: float | None, queue: str | None,
    profile: str | None, label: Pairs,
    name: str | None, stdin: StdinSource,
) -> dict[str, Any]:  # fmt: skip
    """Return the arguments of `Client.submit`: one word is a command line for the shell, several are an argv."""
    labels = dict(label) | ({"name": name} if name is not None else {})
    options: JobOptions = {
        "cwd": None if cwd is None else _absolute(cwd), "stdin": stdin.request_value, "timeout": timeout
    }  # fmt: skip
    if env:
        options["env"] = dict(env)
    if queue is not None:
        options["queue"] = queue
    if profile is not None:
        options["profile"] = profile
    if labels:
        options["labels"] = labels
    return {"command": command[0], **options} if len(command) == 1 else {"argv": list(command), **options}
