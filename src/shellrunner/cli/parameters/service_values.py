"""Values that a shell completes: ids of jobs, names of queues and labels of the service, and programs.

Must not know what is done with them.
"""

import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, NoReturn

import click
from click.shell_completion import CompletionItem
from click.types import StringParamType

from shellrunner import control_characters
from shellrunner.cli import server_config
from shellrunner.client import Client
from shellrunner.client.blocking_transport import BlockingTransport, run
from shellrunner.errors import ShellrunnerError

_MAX_COMPLETIONS: Final = 50
_MAX_LABELLED: Final = 1000  # latest jobs whose labels are offered
_COMPLETION_TIMEOUT: Final = 1.0  # seconds after which pressing Tab completes nothing

Ask = Callable[[Client], Awaitable[list[CompletionItem]]]


def complete(ctx: click.Context, ask: Ask) -> list[CompletionItem]:
    """Return what `ask` finds; nothing if the service does not respond in time."""
    server = ctx.params.get("server") or ctx.find_root().params.get("server")
    try:
        with _time_limit(_COMPLETION_TIMEOUT):
            return run(_call(server, ask))
    except (ShellrunnerError, TimeoutError, ValueError):
        return []


async def latest_jobs(client: Client, prefix: str, **filters: str) -> list[CompletionItem]:
    """Return the latest jobs whose ids begin with `prefix`, each with its command."""
    page = await client.jobs_page(limit=_MAX_COMPLETIONS, fields="job_id,command", **filters)
    return [
        CompletionItem(str(job["job_id"]), help=control_characters.escape(job["command"]))
        for job in page["jobs"]
        if str(job["job_id"]).startswith(prefix)
    ]


class _Queue(StringParamType):
    name = "name"

    def shell_complete(self, ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the queues whose names begin with `incomplete`."""

        async def ask(client: Client) -> list[CompletionItem]:
            names = [queue["queue"] for queue in (await client.queues())["queues"]]
            return [CompletionItem(name) for name in names if name.startswith(incomplete)]

        return complete(ctx, ask)


class _Host(StringParamType):
    name = "name"

    def shell_complete(self, ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the hosts whose names begin with `incomplete`."""

        async def ask(client: Client) -> list[CompletionItem]:
            names = [worker["host"] for worker in (await client.workers())["workers"]]
            return [CompletionItem(name) for name in names if name.startswith(incomplete)]

        return complete(ctx, ask)


class _Label(StringParamType):
    name = "key=value"

    def shell_complete(self, ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the labels of the latest jobs that begin with `incomplete`."""

        async def ask(client: Client) -> list[CompletionItem]:
            page = await client.jobs_page(limit=_MAX_LABELLED, fields="labels")
            labels = {f"{key}={value}" for job in page["jobs"] for key, value in job["labels"].items()}
            shown = sorted(map(control_characters.escape, labels))
            return [CompletionItem(label) for label in shown if label.startswith(incomplete)]

        return complete(ctx, ask)


class _Charset(StringParamType):
    name = "charset"

    def shell_complete(self, _ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the charsets whose names begin with `incomplete`."""
        from shellrunner.charsets import CHARSETS  # noqa: PLC0415  only for shells

        return [CompletionItem(name) for name in sorted(CHARSETS) if name.startswith(incomplete)]


def complete_command(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the programs in PATH whose names begin with `incomplete`, and behind the first word files."""
    if ctx.params.get("command") or "/" in incomplete or not incomplete:
        return [CompletionItem(incomplete, type="file")]
    found: set[str] = set()
    for directory in os.get_exec_path():
        with suppress(OSError), os.scandir(directory) as entries:
            found |= {each.name for each in entries if each.name.startswith(incomplete)}
    return [CompletionItem(name) for name in sorted(found)]


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def expire(*_: object) -> NoReturn:
        raise TimeoutError

    signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


async def _call(server: Any, ask: Ask) -> list[CompletionItem]:
    config = server_config.find(server)
    async with Client(config.url, token=config.token, retry_for=0, make_transport=BlockingTransport) as client:
        return await ask(client)


QUEUE: Final = _Queue()
HOST: Final = _Host()
LABEL: Final = _Label()
CHARSET: Final = _Charset()
