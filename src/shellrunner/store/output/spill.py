"""Spill files: output that exceeds a slot, in `runs/` of the state directory. Keepers write them.

Owned by the store, which reads and removes them. Knows names, sizes and bytes; must not know SQL or jobs' states.
"""

import asyncio
import os
import re
from contextlib import suppress
from types import TracebackType
from typing import Self

from shellrunner.errors import StoreUnavailable
from shellrunner.keeper.slot import DATA_CAPACITY, ENTRY_SIZE, INDEX_CAPACITY, data_path, index_path

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_NAME = re.compile(r"(?P<job>[1-9][0-9]*)(?:\.(?P<attempt>[1-9][0-9]*))?\.(?:out|idx)")  # see `keeper.slot`


class Spill:
    """The spill files of one attempt, opened when they are needed. A missing file counts as an empty one."""

    def __init__(self, state_dir: str, job_id: int, attempt: int = 1) -> None:
        self._paths = (f"{state_dir}/{data_path(job_id, attempt)}", f"{state_dir}/{index_path(job_id, attempt)}")
        self._fds = [-1, -1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        for fd in self._fds:
            if fd >= 0:
                os.close(fd)

    def data(self, position: int, limit: int) -> bytes:
        """Read output from `position` on, which is beyond what a slot holds."""
        return self._read(0, limit, position - DATA_CAPACITY)

    def index(self, number: int, count: int) -> bytes:
        """Read index entries from `number` on, which is beyond what a slot holds."""
        return self._read(1, count * ENTRY_SIZE, (number - INDEX_CAPACITY) * ENTRY_SIZE)

    def entries(self) -> int:
        """Return the number of whole index entries in the file."""
        try:
            return os.stat(self._paths[1], follow_symlinks=False).st_size // ENTRY_SIZE
        except OSError:
            return 0

    def _read(self, which: int, size: int, at: int) -> bytes:
        try:
            if self._fds[which] < 0:
                self._fds[which] = os.open(self._paths[which], _READ)
            return os.pread(self._fds[which], size, at)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise StoreUnavailable(f"{self._paths[which]} cannot be read: {error.strerror}") from error


class SpillRemover:
    """Removes the spill files of deleted results in a thread, because freeing a large file may take long."""

    def __init__(self, state_dir: str) -> None:
        self._state_dir = state_dir
        self._discarded: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue()

    def discard(self, job_id: int, attempts: int = 1) -> None:
        """Schedule the removal of a job's files. Call it only after the deletion was committed."""
        self._discarded.put_nowait((job_id, attempts))

    def close(self) -> None:
        """Let `run` return once everything discarded was removed."""
        self._discarded.put_nowait(None)

    async def run(self) -> None:
        """Remove what is discarded, until `close`."""
        while (discarded := await self._discarded.get()) is not None:
            await asyncio.to_thread(remove, self._state_dir, *discarded)


def remove(state_dir: str, job_id: int, attempts: int = 1) -> None:
    """Remove the spill files of a job's attempts, as far as there are any."""
    for attempt in range(1, attempts + 1):
        for path in (data_path(job_id, attempt), index_path(job_id, attempt)):
            with suppress(OSError):
                os.unlink(f"{state_dir}/{path}")


def attempt_of(path: str) -> tuple[int, int] | None:
    """Return the job and the attempt to which a file in `runs/` belongs; None if it is no spill file."""
    match = _NAME.fullmatch(path.removeprefix("runs/"))
    return (int(match["job"]), int(match["attempt"] or 1)) if match else None


def find_all(state_dir: str) -> dict[int, int]:
    """Return the ids of the jobs that have spill files, each with the number of its last attempt that has."""
    found: dict[int, int] = {}
    with os.scandir(f"{state_dir}/runs") as listing:
        for entry in listing:
            if belongs := attempt_of(entry.name):
                job_id, attempt = belongs
                found[job_id] = max(attempt, found.get(job_id, 1))
    return found
