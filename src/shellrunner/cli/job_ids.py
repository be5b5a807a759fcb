"""Job ids as arguments; a shell can complete them by asking the service.

Must not know what is done with the jobs.
"""

import asyncio
from typing import Final

import click
from click.shell_completion import CompletionItem

from shellrunner import control_characters
from shellrunner.cli import server_config
from shellrunner.cli.number_types import WholeNumber
from shellrunner.client import Client
from shellrunner.errors import ShellrunnerError
from shellrunner.model.names import MAX_JOB_ID

_MAX_COMPLETIONS: Final = 50
_COMPLETION_TIMEOUT: Final = 1.0  # seconds after which pressing Tab completes nothing


class _JobIdType(WholeNumber):
    name = "id"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the latest jobs whose ids begin with `incomplete`; none if the service does not respond."""
        try:
            return asyncio.run(_latest_jobs(ctx.params.get("server"), incomplete))
        except (ShellrunnerError, TimeoutError, ValueError):
            return []


JOB_ID: Final = _JobIdType(1, MAX_JOB_ID)
job_ids_argument = click.argument("jobs", metavar="ID...", type=JOB_ID, nargs=-1, required=True)


async def _latest_jobs(server: str | None, prefix: str) -> list[CompletionItem]:
    config = server_config.find(server)
    async with asyncio.timeout(_COMPLETION_TIMEOUT), Client(config.url, token=config.token, retry_for=0) as client:
        page = await client.jobs_page(limit=_MAX_COMPLETIONS, fields="job_id,command")
        return [
            CompletionItem(str(job["job_id"]), help=control_characters.escape(job["command"]))
            for job in page["jobs"]
            if str(job["job_id"]).startswith(prefix)
        ]
