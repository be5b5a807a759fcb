"""The arguments and options by which verbs describe a job, and the arguments of the client made from them.

Must not know how a job is followed.
"""

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import click

from shellrunner import ascii_text
from shellrunner.cli import boundary, exit_codes, job_request
from shellrunner.cli.api_calls import server_option
from shellrunner.cli.parameters.argument_types import DURATION, MOMENT, TERMINAL_SIZE, Pair, Words, parse_size
from shellrunner.cli.parameters.job_ids import JOB_IDS
from shellrunner.cli.parameters.number_types import Integer, WholeNumber
from shellrunner.cli.parameters.service_values import CHARSET, LABEL, QUEUE, complete_command
from shellrunner.cli.stdin_source import StdinSource
from shellrunner.cli.ui import formatting
from shellrunner.control_characters import is_utf8
from shellrunner.model.endings import ENDINGS, Ending
from shellrunner.model.names import MAX_PRIORITY

F = TypeVar("F", bound=Callable[..., Any])
Pairs = tuple[tuple[str, str], ...]

_RETRYABLE: Final = tuple(ending.value for ending in Ending if ENDINGS[ending].retryable)
_IDEMPOTENCY_KEY: Final = re.compile(r"[!#-\[\]-~]{1,255}", re.ASCII)

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


def _check_utf8(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Refuse what cannot be sent: what has a type for which `api_calls` allows any bytes."""
    if not all(map(is_utf8, value if isinstance(value, tuple) else (value or "",))):
        raise click.BadParameter("must be valid UTF-8", ctx, param)
    return value


def _parse_pairs(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> Pairs:
    pairs = []
    for text in value:
        name, equals, content = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r} must be {param.metavar}", ctx, param)
        pairs.append((name, content))
    return tuple(pairs)


def _check_key(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not _IDEMPOTENCY_KEY.fullmatch(value):
        raise click.BadParameter("must be 1 to 255 visible ASCII characters without quotes", ctx, param)
    return value


def _parse_variables(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> Pairs:
    complete = []
    for text in value:
        if "=" not in text and text not in os.environ:
            raise click.BadParameter(f"{text!r} is not set in the environment: use NAME=VALUE", ctx, param)
        complete.append(text if "=" in text else f"{text}={os.environ[text]}")
    return _parse_pairs(ctx, param, tuple(complete))


def _other_than(name: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def check(ctx: click.Context, _param: click.Parameter, value: Any) -> Any:
        if value and ctx.params.get(name):
            raise click.UsageError("--interactive cannot be combined with --stdin")
        return value

    return check


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not ascii_text.is_decimal(text) or not least <= int(text) <= most:
            raise ValueError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return parse


def _parse_cpu(text: str) -> int:
    return max(1, int(formatting.parse_duration(text)))


_LIMIT: Final = Pair(
    {
        "memory": parse_size, "cpu": _parse_cpu, "processes": _whole(1, 2**31), "files": _whole(8, 2**20),
        "output": parse_size,
    }
)  # fmt: skip
_COMMAND: Final = click.argument(
    "command", nargs=-1, required=True, type=click.UNPROCESSED, callback=_check_utf8, shell_complete=complete_command
)


class _JobOption:
    """An option that sets a key of a job; `default_text` describes the value of a new job that does not have it."""

    def __init__(self, *names: str, help: str, default_text: str = "", **attributes: Any) -> None:  # noqa: A002  click's name
        self._names, self._help, self._default_text, self._attributes = names, help, default_text, attributes

    def of_new_job(self, verb: F) -> F:
        """Add the option to a verb that submits a new job."""
        default = f" (default: {self._default_text})" if self._default_text else ""
        return self._add(verb, f"{self._help}{default}.")

    def of_existing_job(self, verb: F) -> F:
        """Add the option to a verb that changes or repeats a job, which keeps what is not given."""
        return self._add(verb, f"{self._help}.")

    def _add(self, verb: F, help_text: str) -> F:
        repeatable = " Repeatable." if self._attributes.get("multiple") else ""
        return click.option(*self._names, help=f"{help_text}{repeatable}", **self._attributes)(verb)


# When and where a job starts: what can still be changed before it does.
_SCHEDULING: Final = (
    _JobOption("--name", metavar="NAME", help="Name to find it by; it need not be unique"),
    _JobOption(
        "--queue", metavar="NAME", type=QUEUE, help="Queue of the job",
        default_text="`default`",
    ),
    _JobOption(
        "--priority", type=Integer(-MAX_PRIORITY, MAX_PRIORITY), metavar="N",
        help="Jobs with a larger number start first", default_text="0",
    ),
    _JobOption(
        "--label", metavar="KEY=VALUE", type=LABEL, multiple=True, callback=_parse_pairs, help="Label to search by"
    ),
    _JobOption(
        "--after", metavar="IDS", type=JOB_IDS, multiple=True,
        help="Start once these jobs have exited with 0, else be skipped: 12, 3-7 or 3,9",
    ),
    _JobOption(
        "--at", metavar="WHEN", type=MOMENT,
        help="Do not start before 03:00, 'tomorrow 03:00', 2026-12-24 or 2026-12-24T03:00:00Z",
    ),
    _JobOption("--delay", metavar="TIME", type=DURATION, help="Do not start within the next 90, 1.5s, 5m, 1h30m"),
    _JobOption("--timeout", metavar="TIME", type=DURATION, help="Terminate it after 90, 1.5s, 5m, 1h30m"),
)  # fmt: skip
_EXECUTION: Final = (
    _JobOption("--hold", is_flag=True, help="Do not start it until it is released with `release`"),
    _JobOption(
        "--cwd", metavar="DIR", callback=_check_utf8, type=click.Path(file_okay=False),
        help="Working directory of the command", default_text="the current one, if the service is on this machine",
    ),
    _JobOption(
        "-e", "--env", metavar="NAME[=VALUE]", multiple=True, callback=_parse_variables,
        help="Set an environment variable; without a value, to its value here",
    ),
    _JobOption(
        "--stdin", metavar="FILE|-", type=click.Path(allow_dash=True), callback=_other_than("interactive"),
        help="Standard input: a file, or - for this process's own", default_text="empty",
    ),
    _JobOption(
        "-i", "--interactive", is_flag=True, callback=_other_than("stdin"),
        help="Keep its standard input open for `send` and `attach`; `run` without -d sends it what comes here",
    ),
    *_SCHEDULING,
    _JobOption(
        "--retries", metavar="N", type=WholeNumber(1, 1000), help="Start it again up to N times if it fails"
    ),
    _JobOption("--retry-delay", metavar="TIME", type=DURATION, help="Wait before each retry", default_text="0"),
    _JobOption(
        "--retry-on", metavar="ENDINGS", type=Words(_RETRYABLE),
        help=f"Which endings count as failed: {', '.join(_RETRYABLE)}",
        default_text="exited, with a code other than 0",
    ),
    _JobOption(
        "--limit", metavar="NAME=VALUE", type=_LIMIT, multiple=True,
        help="Limit: memory=512M, cpu=10m, processes=50, files=256 or output=10M",
    ),
    _JobOption("--profile", metavar="NAME", help="Profile that confines the command"),
    _JobOption("-t", "--tty", is_flag=True, help="Run it in a pseudo-terminal; `run` attaches this terminal to it"),
    _JobOption(
        "--tty-size", metavar="ROWSxCOLUMNS", type=TERMINAL_SIZE, help="Run it in a pseudo-terminal of this size",
        default_text="24x80, or with `run` that of this terminal",
    ),
    _JobOption("--tty-echo", is_flag=True, help="Have the pseudo-terminal echo its input, as when typing"),
    _JobOption(
        "--merge/--split", default=None,
        help="Write standard error to standard output, in the order of writing; or keep them apart",
    ),
    _JobOption(
        "--encoding", metavar="CHARSET", type=CHARSET, help="Character set of its output", default_text="utf-8"
    ),
    _JobOption(
        "--leave-children/--end-children", default=None,
        help="Let processes that it leaves behind continue, or end them", default_text="as the service is configured",
    ),
    _JobOption("--notify", metavar="URL", help="Send the result to this URL"),
)  # fmt: skip
_CLEAN: Final = click.option(
    "--clean", is_flag=True,
    help="Send neither the current directory nor the environment to a service on this machine.",
)  # fmt: skip
_KEY: Final = click.option(
    "--key", metavar="KEY", callback=_check_key,
    help="Idempotency key: submitted again within 24 hours, it is the same job, and not another one.",
)  # fmt: skip


def job_options(verb: F) -> F:
    """Add the argument and the options that describe a new job, and those of its submission."""
    return _COMMAND(new_job_options(server_option(verb)))


def new_job_options(verb: F) -> F:
    """Add the options that describe a new job, without its command, and those of its submission."""
    return _with((option.of_new_job for option in _EXECUTION), _CLEAN(_KEY(verb)))


def replacing_options(verb: F) -> F:
    """Add the options that replace keys of an earlier job."""
    return _with((option.of_existing_job for option in _EXECUTION), _KEY(verb))


def scheduling_options(verb: F) -> F:
    """Add the options for what can be changed before a job starts."""
    return _with((option.of_existing_job for option in _SCHEDULING), verb)


def _with(options: Iterable[Callable[[F], F]], verb: F) -> F:
    for option in reversed(list(options)):
        verb = option(verb)
    return verb


def submission(*, command: Sequence[str], stdin: StdinSource, key: str | None, **options: Any) -> dict[str, Any]:
    """Return the arguments of `Client.submit`: one word is a command line for the shell, several are an argv."""
    spec = job_request.spec_of(options)
    if stdin.request_value is not None:
        spec["stdin"] = stdin.request_value
    return job_request.command_of(command) | spec | ({"key": key} if key else {})
