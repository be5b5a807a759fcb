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

_PAGE: Final = 1000
_MAX_SEARCHED: Final = 10 * _PAGE  # of the latest jobs, those among which the last one of the client's own is sought


class RangeMember(int):
    """An id from a range: such a job need not exist."""


class JobSelection(NamedTuple):
    """The ids that were given, or the filters; `states` are those of jobs that the verb can be about.

    The last job is that of anybody, or with `is_own` that which the client itself submitted.
    """

    ids: Sequence[int]
    filters: Filters = ()
    is_all: bool = False
    states: str | None = None
    is_own: bool = False

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
            return [await self._last(client)]
        return [await self._last(client) if each == LAST else each for each in self.ids]

    async def _last(self, client: Client) -> int:
        return await (last_own_job if self.is_own else last_job)(client, self.states)


async def last_job(client: Client, states: str | None = None) -> int:
    """Return the id of the last job that is in one of the states.

    Raises:
        ShellrunnerError: there is none.
    """
    page = await client.jobs_page(limit=1, fields="job_id", **_in_states(states))
    if not page["jobs"]:
        raise ShellrunnerError(f"there is no job{_that_is(states)}")
    return page["jobs"][0]["job_id"]


async def last_own_job(client: Client, states: str | None = None) -> int:
    """Return the id of the last job in one of the states that was submitted with the identity of this client.

    Raises:
        ShellrunnerError: there is none, or none that recent.
    """
    identity = (await client.index())["identity"]
    searched = 0
    async for job in client.jobs(limit=_PAGE, fields="job_id,submitter", **_in_states(states)):
        if job["submitter"] == identity:
            return job["job_id"]
        searched += 1
        if searched == _MAX_SEARCHED:
            break
    others = ": name a job of others by its id" if searched else ""
    raise ShellrunnerError(f"there is no job of {identity}{_that_is(states)}{others}")


def _in_states(states: str | None) -> dict[str, str]:
    return {"state": states} if states else {}


def _that_is(states: str | None) -> str:
    return f" that is {' or '.join(states.split(','))}" if states else ""
