"""What every verb that asks a service has: `--server`, a client, and what its failures mean for a person.

A verb says what to do with the client; from here come its exit code and its last words. Must not know any verb.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, NoReturn, TypeVar

import click

from shellrunner.cli import exit_codes, server_config
from shellrunner.cli.server_config import TOKEN, URL, ServerConfig
from shellrunner.cli.ui.console import Console, OutputClosed, silence
from shellrunner.client import Client, ClientError
from shellrunner.errors import ConfigError, ShellrunnerError

T = TypeVar("T")
Doing = Callable[[Client], Coroutine[Any, Any, int]]
Notice = Callable[[ClientError | None], None]

FAILED, NONSENSE = 1, 2
_OF_ONE_JOB = (404, 409, 410)  # there is no such job, or it is not in a state for this
BRIEFLY = 10.0  # seconds for which a server that goes away is waited for
LONG = 300.0  # likewise, where somebody waits for a job: a restart must not end that

server = click.option("--server", metavar="URL", help=f"http://…, https://… or unix:/PATH, instead of {URL}.")


def work(
    url: str | None, doing: Doing, terminal: Console, *, patience: float = BRIEFLY, failed: int | None = None
) -> NoReturn:
    """Do it, and exit. `failed` is the code of whatever keeps it from being done (none: 1, or 2 for nonsense)."""
    try:
        code = asyncio.run(_with_client(server_config.find(url), doing, terminal, patience))
    except OutputClosed:
        silence()
        code = exit_codes.UNREAD
    except ShellrunnerError as error:
        terminal.say("; ".join([error.detail, *getattr(error, "__notes__", ())]), needed=True)
        code = failed or (NONSENSE if isinstance(error, ConfigError) else FAILED)
    except KeyboardInterrupt:
        terminal.draw("")
        code = exit_codes.INTERRUPTED
    sys.exit(code)


async def each(
    jobs: Sequence[int], doing: Callable[[int], Awaitable[int]], terminal: Console, *, failed: int = FAILED
) -> list[int]:
    """Do it with each job, and return their codes; what fails because of one job is said, and costs no other."""
    found = []
    for job_id in jobs:
        try:
            found.append(await doing(job_id))
        except ClientError as error:
            if error.status not in _OF_ONE_JOB:
                raise
            terminal.say(error.detail, needed=True)
            found.append(failed)
    return found


async def alongside(main: Coroutine[Any, Any, T], *others: Coroutine[Any, Any, Any]) -> T:
    """Await `main` while the others go on beside it; they end with it, and what one of them raises ends it."""
    try:
        async with asyncio.TaskGroup() as group:
            beside = [group.create_task(other) for other in others]
            try:
                return await main
            finally:
                for task in beside:
                    task.cancel()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


def explained(error: ClientError, where: ServerConfig) -> str:
    """What went wrong, and what to do about it."""
    match error.kind:
        case "unreachable" if where.url_from:
            return f"{error.detail}; is the service running there, as {where.url_from} says?"
        case "unreachable":
            return f"{error.detail}; start it with `shellrunner serve`, or say where it is with --server or {URL}"
        case "token-needed" if where.token:
            return f"{where.url} does not know the token in {where.token_from}; it is wrong, or has expired"
        case "token-needed":
            return f'{where.url} asks for a token; set {TOKEN}, or write token = "…" into {server_config.file()}'
        case "untrusted":
            return f"{error.detail}; SSL_CERT_FILE can name a file with the authority that signed it"
    return error.detail


async def _with_client(where: ServerConfig, doing: Doing, terminal: Console, patience: float) -> int:
    progress = terminal.progress
    try:
        async with _client(where, patience, progress.notice) as client:
            return await alongside(doing(client), progress.show())
    except ClientError as error:
        error.detail = explained(error, where)
        raise


def _client(where: ServerConfig, patience: float, notice: Notice) -> Client:
    try:
        return Client(where.url, token=where.token, retry_for=patience, on_retry=notice)
    except ValueError as error:
        raise ConfigError(f"{where.url_from}: {error}") from None
