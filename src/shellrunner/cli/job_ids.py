"""The numbers of jobs as arguments, which a shell can complete by asking the service.

Must not know what is done with the jobs.
"""

import asyncio
from typing import Final

import click
from click.shell_completion import CompletionItem

from shellrunner.cli import server_config
from shellrunner.cli.ui import formatting
from shellrunner.client import Client
from shellrunner.errors import ShellrunnerError
from shellrunner.model.names import MAX_JOB_ID

_MANY: Final = 50
_PATIENCE: Final = 1.0  # seconds for which somebody waits who pressed Tab


class _Jobs(click.IntRange):
    name = "id"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The latest jobs whose numbers begin so; none, if there is nobody to ask."""
        try:
            return asyncio.run(_latest(ctx.params.get("server"), incomplete))
        except (ShellrunnerError, TimeoutError, ValueError):
            return []


async def _latest(server: str | None, beginning: str) -> list[CompletionItem]:
    where = server_config.find(server)
    async with asyncio.timeout(_PATIENCE), Client(where.url, token=where.token, retry_for=0) as client:
        page = await client.jobs_page(limit=_MANY, fields="job_id,command")
        return [
            CompletionItem(str(job["job_id"]), help=formatting.visible(job["command"]))
            for job in page["jobs"]
            if str(job["job_id"]).startswith(beginning)
        ]


JOBS: Final = _Jobs(1, MAX_JOB_ID)
