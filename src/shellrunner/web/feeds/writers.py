"""Who types into a job: at most one of the clients that follow it and give themselves a name.

`Writers` belongs to the app. It knows the followers of this process only, and so too who is the writer, unless other
nodes have followers of the same jobs: then the store has leases for that. After a restart the first one that types is
the writer again, and offsets keep what was typed in order all the same. Must not know sockets.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aiohttp import web

from shellrunner.errors import InputTaken
from shellrunner.store.hosts import WriterLeases


class Writers:
    """The followers of each job that have a name, and which of them is its writer."""

    def __init__(self, leases: WriterLeases | None = None) -> None:
        """`leases`: of all nodes, where there are several."""
        self._leases = leases
        self._following: Counter[tuple[int, str]] = Counter()
        self._writers: dict[int, str] = {}  # only names that follow

    @contextmanager
    def following(self, job_id: int, name: str | None) -> Iterator[None]:
        """Count a follower within the block; when the last one of a writer's name leaves, the job has no writer."""
        if name is None:
            yield
            return
        self._following[job_id, name] += 1
        try:
            yield
        finally:
            self._following[job_id, name] -= 1
            if not self._following[job_id, name]:
                del self._following[job_id, name]
                if self._writers.get(job_id) == name:
                    del self._writers[job_id]
                if self._leases is not None:
                    self._leases.release(job_id, name)

    async def claim(self, job_id: int, name: str, *, take: bool) -> None:
        """Make a follower the job's writer; with `take` although there is another one.

        Raises:
            InputTaken: there is another one.
        """
        is_following = (job_id, name) in self._following
        if self._leases is not None:
            if not await self._leases.acquire(job_id, name, take=take, keep=is_following):
                raise InputTaken(job_id)
            if is_following and (job_id, name) not in self._following:  # it has left meanwhile
                self._leases.release(job_id, name)
            return
        if self._writers.get(job_id, name) != name and not take:
            raise InputTaken(job_id)
        if is_following:
            self._writers[job_id] = name


WRITERS: Final = web.AppKey("writers", Writers)
