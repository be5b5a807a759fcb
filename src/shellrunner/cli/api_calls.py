"""Calls of the API from a command: the `--server` option, a client, and errors turned into messages and exit codes.

A command supplies the coroutine that uses the client, and whether it does several things at a time, which requires an
event loop: that takes 0.1 s to import, so the other commands do without. Must not know any command.
"""

import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from functools import partial
from typing import Any, Final, NoReturn, TypeVar

import click

from shellrunner.cli import exit_codes, server_config
from shellrunner.cli.job_selection import JobSelection, RangeMember
from shellrunner.cli.server_config import SERVER_USER_VARIABLE, TOKEN_VARIABLE, URL_VARIABLE, ServerConfig
from shellrunner.cli.ui import formatting
from shellrunner.cli.ui.console import Console, OutputClosed, discard_stdout
from shellrunner.cli.ui.progress import Progress
from shellrunner.client import Client, ClientError, RetryListener
from shellrunner.client.blocking_transport import BlockingTransport, run
from shellrunner.client.transport import TransportFactory
from shellrunner.control_characters import is_utf8
from shellrunner.errors import ConfigError, ShellrunnerError

F = TypeVar("F", bound=Callable[..., Any])
ClientAction = Callable[[Client], Coroutine[Any, Any, int]]  # returns the exit code

RETRY_FOR: Final = 10.0  # seconds for which an unreachable server is waited for
RETRY_FIRST_FOR: Final = 10.0  # the same for a server that restarts just when a verb begins that only waits
RETRY_FOR_LONG: Final = 300.0  # the same where the user waits for a job: a restart must not end that
_WAIT_KEY: Final = "shellrunner.wait_server"  # in the context of a call: the value of --wait-server in seconds
_ERRORS_OF_ONE_JOB: Final = (404, 409, 410)  # the job does not exist, or its state does not allow the request


def _server_of_group(ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Return the address that was given before the verb, unless one was given after it."""
    return value or ctx.find_root().params.get("server")


def _remember_wait(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    try:
        ctx.meta[_WAIT_KEY] = 0.0 if value is None else formatting.parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


_OPTIONS: Final = (
    click.option(
        "--server", metavar="URL", callback=_server_of_group,
        help=f"Address of the service: http://…, https://… or unix:/PATH (default: {URL_VARIABLE}).",
    ),
    click.option(
        "--wait-server", metavar="TIME", callback=_remember_wait, expose_value=False,
        help="Wait this long for a service that cannot be reached yet: 30s, 5m.",
    ),
)  # fmt: skip


def server_option(verb: F) -> F:
    """Add the options that say which service is used, and how long it is waited for."""
    for option in reversed(_OPTIONS):
        verb = option(verb)
    return verb


def run_with_client(
    server: str | None,
    action: ClientAction,
    console: Console,
    *,
    concurrent: bool = False,
    retry_for: float = RETRY_FOR,
    retry_first_for: float = 0.0,
    error_code: int | None = None,
) -> NoReturn:
    """Run `action` with a client, report its errors, and exit.

    It is run in an event loop if it is `concurrent`; otherwise it must not use asyncio. `retry_for` and
    `retry_first_for` are those of the client; --wait-server makes the second longer. `error_code` is the exit
    code for every error; by default 1, or 2 for a wrong configuration.
    """
    context = click.get_current_context()
    _check_utf8(context)
    retry_first_for = max(retry_first_for, context.meta.get(_WAIT_KEY, 0.0))
    try:
        call = partial(_call, action, server_config.find(server), console.progress, (retry_for, retry_first_for))
        code = _run_concurrently(call, console.progress) if concurrent else _run_blocking(call, console.progress)
    except OutputClosed:
        discard_stdout()
        code = exit_codes.OUTPUT_CLOSED
    except ShellrunnerError as error:
        console.report("; ".join([error.detail, *getattr(error, "__notes__", ())]), required=True)
        usual_code = exit_codes.USAGE_ERROR if isinstance(error, ConfigError) else exit_codes.FAILED
        code = error_code or usual_code
    except KeyboardInterrupt:
        console.draw_status("")
        code = exit_codes.INTERRUPTED
    sys.exit(code)


def _check_utf8(context: click.Context) -> None:
    """Refuse a text that cannot be sent; names of files and what is `UNPROCESSED` may have any bytes."""
    for parameter in context.command.params:
        is_bytes = isinstance(parameter.type, (click.Path, click.File)) or parameter.type is click.UNPROCESSED
        if not is_bytes and not all(map(is_utf8, _texts(context.params.get(str(parameter.name))))):
            raise click.BadParameter("must be valid UTF-8", context, parameter)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _texts(each)


async def for_each_job(
    jobs: Sequence[int],
    action: Callable[[int], Awaitable[int]],
    console: Console,
    *,
    error_code: int = exit_codes.FAILED,
) -> list[int]:
    """Run `action` for each job and return the exit codes; an error of one job is reported and stops no other.

    Of a range, jobs that do not exist are left out, unless all of them are.
    """
    codes = []
    for job_id in jobs:
        try:
            codes.append(await action(job_id))
        except ClientError as error:
            if error.status not in _ERRORS_OF_ONE_JOB:
                raise
            if error.kind == "no-such-job" and isinstance(job_id, RangeMember):
                continue
            console.report(error.detail, required=True)
            codes.append(error_code)
    if not jobs:
        console.report("no jobs match")
    elif not codes:
        console.report("there is no job in this range", required=True)
        codes.append(error_code)
    return codes


async def for_each_host(hosts: Sequence[str], act: Callable[[str], Awaitable[str]], console: Console) -> int:
    """Run `act` for each host and report its message; an unknown host is reported and stops no other."""
    code = 0
    for host in hosts:
        try:
            console.report(await act(host))
        except ClientError as error:
            if error.kind != "no-such-host":
                raise
            console.report(_describe_no_host(error), required=True)
            code = exit_codes.FAILED
    return code


def run_for_each_job(
    server: str | None, jobs: JobSelection, act: Callable[[Client, int], Awaitable[str]], *, quiet: bool
) -> NoReturn:
    """Run `act` with a client for each of the jobs, report the messages that it returns, and exit."""
    console = Console(quiet=quiet)

    async def act_on_all(client: Client) -> int:
        return await report_each(await jobs.resolve(client), partial(act, client), console)

    run_with_client(server, act_on_all, console)


async def report_each(job_ids: Sequence[int], act: Callable[[int], Awaitable[str]], console: Console) -> int:
    """Run `act` for each of the jobs, report the message that it returns, and return the exit code."""

    async def act_and_report(job_id: int) -> int:
        console.report(await act(job_id))
        return 0

    return max(await for_each_job(job_ids, act_and_report, console), default=0)


async def _call(
    action: ClientAction,
    config: ServerConfig,
    progress: Progress,
    retries: tuple[float, float],
    make_transport: TransportFactory | None,
) -> int:
    try:
        async with _open_client(config, retries, progress.on_retry, make_transport) as client:
            return await action(client)
    except ClientError as error:
        error.detail = _explain(error, config)
        raise


def _run_blocking(call: Callable[[TransportFactory], Coroutine[Any, Any, int]], progress: Progress) -> int:
    return run(call(partial(BlockingTransport, on_idle=progress.redraw)))


def _run_concurrently(call: Callable[[None], Coroutine[Any, Any, int]], progress: Progress) -> int:
    from shellrunner.aiohttp_import import import_aiohttp  # noqa: PLC0415  see the module

    import_aiohttp()
    from shellrunner.cli import event_loop  # noqa: PLC0415

    return event_loop.run(call(None), progress)


def _open_client(
    config: ServerConfig,
    retries: tuple[float, float],
    on_retry: RetryListener,
    make_transport: TransportFactory | None,
) -> Client:
    later, first = retries
    try:
        return Client(
            config.url,
            token=config.token,
            retry_for=later,
            retry_first_for=first,
            on_retry=on_retry,
            server_user=config.server_user,
            make_transport=make_transport,
        )
    except ValueError as error:
        raise ConfigError(f"{config.url_source}: {error}") from None


def _explain(error: ClientError, config: ServerConfig) -> str:
    """Return the error's message, with a hint where the configuration may be the cause."""
    if error.kind == "token-needed":
        return _describe_token_needed(config)
    if error.kind == "bad-parameter" and error.problem:
        return _describe_parameter(str(error.problem.get("parameter")), error.detail)
    if error.kind == "no-such-queue":
        return error.detail.replace("GET /api/queues", "`shellrunner queues`")
    if error.kind == "no-such-host":
        return _describe_no_host(error)
    hint = _hint(error.kind, config)
    return f"{error.detail}{hint}"


def _describe_parameter(name: str, detail: str) -> str:
    """Return what is wrong with a query parameter, by the option that gave it."""
    if name == "sort":
        return f"--sort: {detail}"
    if name not in (given for given, _ in click.get_current_context().params.get("filters", ())):
        return detail
    if detail.startswith("unknown parameter"):
        from shellrunner.model.filters import FILTERS  # noqa: PLC0415  only for mistakes

        detail = f"unknown filter: expected one of {', '.join(info.parameter for info in FILTERS.values())}"
    return f"--filter {name}: {detail.removeprefix(f'{name} ')}"


def _describe_no_host(error: ClientError) -> str:
    return error.detail.replace("GET /api/workers", "`shellrunner hosts`")


def _describe_token_needed(config: ServerConfig) -> str:
    if config.token:
        return f"{config.url} rejects the token from {config.token_source}: it is unknown or expired"
    path = server_config.config_path()
    return f'{config.url} requires a token: set {TOKEN_VARIABLE}, or add token = "…" to {path}'


def _hint(kind: str, config: ServerConfig) -> str:
    match kind:
        case "unreachable" if config.url_source:
            return f"; check that the service runs there (address from {config.url_source})"
        case "unreachable":
            return f"; start it with `shellrunner serve`, or set --server or {URL_VARIABLE}"
        case "untrusted":
            return "; set SSL_CERT_FILE to the certificate of the authority that signed it"
        case "other-user":
            return f" ({SERVER_USER_VARIABLE}, or server_user in {server_config.config_path()})"
    return ""
