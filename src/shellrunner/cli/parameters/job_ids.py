"""Job ids as arguments; a shell can complete them by asking the service.

Must not know what is done with the jobs.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

import click
from click.shell_completion import CompletionItem

from shellrunner import control_characters
from shellrunner.cli import server_config
from shellrunner.cli.parameters.number_types import WholeNumber
from shellrunner.client import Client
from shellrunner.client.blocking_transport import BlockingTransport, run
from shellrunner.errors import ShellrunnerError
from shellrunner.model.names import MAX_JOB_ID

_MAX_COMPLETIONS: Final = 50
_COMPLETION_TIMEOUT: Final = 1.0  # seconds after which pressing Tab completes nothing


class _JobIdType(WholeNumber):
    name = "id"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the latest jobs whose ids begin with `incomplete`; none if the service does not respond."""
        try:
            with _time_limit(_COMPLETION_TIMEOUT):
                return run(_latest_jobs(ctx.params.get("server"), incomplete))
        except (ShellrunnerError, TimeoutError, ValueError):
            return []


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


JOB_ID: Final = _JobIdType(1, MAX_JOB_ID)
job_ids_argument = click.argument("jobs", metavar="ID...", type=JOB_ID, nargs=-1, required=True)


async def _latest_jobs(server: str | None, prefix: str) -> list[CompletionItem]:
    config = server_config.find(server)
    async with Client(config.url, token=config.token, retry_for=0, make_transport=BlockingTransport) as client:
        page = await client.jobs_page(limit=_MAX_COMPLETIONS, fields="job_id,command")
        return [
            CompletionItem(str(job["job_id"]), help=control_characters.escape(job["command"]))
            for job in page["jobs"]
            if str(job["job_id"]).startswith(prefix)
        ]
