"""Which jobs a verb is about: ids and ranges, the last job, or all that match filters.

Ids that are given are used as they are; the rest is found by asking the service. Must not know what is done with
the jobs.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import click

from shellrunner.cli.job_query import Filters, filter_query
from shellrunner.client import Client
from shellrunner.errors import ShellrunnerError

LAST: Final = 0  # stands for the id of the last job
NOT_DONE: Final = "waiting,queued,running"


class RangeMember(int):
    """An id from a range: such a job need not exist."""


class JobSelection(NamedTuple):
    """The ids that were given, or the filters; `states` are those of jobs that the verb can be about."""

    ids: Sequence[int]
    filters: Filters = ()
    is_all: bool = False
    states: str | None = None

    @property
    def is_bulk(self) -> bool:
        """Whether the jobs are found by filters, and may be none."""
        return self.is_all or bool(self.filters)

    @property
    def query(self) -> Mapping[str, Any]:
        """The filters as query parameters of `Client`."""
        query = dict(filter_query(self.filters))
        if self.states and "state" not in query:
            query["state"] = self.states
        return query

    def check(self) -> None:
        """Check that the jobs are named in one way.

        Raises:
            click.UsageError: there are ids and filters.
        """
        if self.is_bulk and self.ids:
            raise click.UsageError("ids cannot be combined with --filter or --all")

    async def resolve(self, client: Client) -> list[int]:
        """Return the ids: as given, those that match the filters (oldest first), or that of the last job.

        Raises:
            ShellrunnerError: there is no last job.
        """
        if self.is_bulk:
            return [job["job_id"] async for job in client.jobs(**self.query, sort="created", fields="job_id")]
        if not self.ids:
            return [await last_job(client, self.states)]
        return [await last_job(client, self.states) if each == LAST else each for each in self.ids]


async def last_job(client: Client, states: str | None = None) -> int:
    """Return the id of the last job that is in one of the states.

    Raises:
        ShellrunnerError: there is none.
    """
    filters = {"state": states} if states else {}
    page = await client.jobs_page(limit=1, fields="job_id", **filters)
    if not page["jobs"]:
        which = f" that is {' or '.join(states.split(','))}" if states else ""
        raise ShellrunnerError(f"there is no job{which}")
    return page["jobs"][0]["job_id"]
