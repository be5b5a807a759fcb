"""The files in `runs/`: output that found no room in its slot. Written by keepers, read and removed here.

Owned by the store. Knows names, sizes and bytes; must not know SQL or what a job is.
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
_NAME = re.compile(r"(?P<job>[1-9][0-9]*)(?:\.(?P<attempt>[1-9][0-9]*))?\.(?:out|idx)")  # as `keeper.slot` has it


class Spill:
    """What lies in `runs/` of one attempt, opened as it is needed. A file that is not there has no bytes."""

    def __init__(self, state: str, job: int, attempt: int = 1) -> None:
        self._paths = (f"{state}/{data_path(job, attempt)}", f"{state}/{index_path(job, attempt)}")
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
        """Output from `position` on, which is beyond what a slot holds."""
        return self._read(0, limit, position - DATA_CAPACITY)

    def index(self, number: int, count: int) -> bytes:
        """Index entries from this number on, which is beyond what a slot holds."""
        return self._read(1, count * ENTRY_SIZE, (number - INDEX_CAPACITY) * ENTRY_SIZE)

    def entries(self) -> int:
        """How many whole index entries are here."""
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


class Runs:
    """The directory: files whose result is gone are removed from it, off the loop's thread."""

    def __init__(self, state: str) -> None:
        self._state = state
        self._discarded: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue()

    def discard(self, job: int, attempts: int = 1) -> None:
        """Have the files of a job's attempts removed. Only after the commit that says so."""
        self._discarded.put_nowait((job, attempts))

    def close(self) -> None:
        """Let `work` return once everything discarded is gone."""
        self._discarded.put_nowait(None)

    async def work(self) -> None:
        """Remove what is discarded; freeing a large file may take long."""
        while (discarded := await self._discarded.get()) is not None:
            await asyncio.to_thread(remove, self._state, *discarded)


def remove(state: str, job: int, attempts: int = 1) -> None:
    """Remove the files of a job's attempts, if there are any."""
    for attempt in range(1, attempts + 1):
        for path in (data_path(job, attempt), index_path(job, attempt)):
            with suppress(OSError):
                os.unlink(f"{state}/{path}")


def present(state: str) -> dict[int, int]:
    """The jobs that have files, each with the last attempt that has."""
    found: dict[int, int] = {}
    with os.scandir(f"{state}/runs") as listing:
        for entry in listing:
            if match := _NAME.fullmatch(entry.name):
                job, attempt = int(match["job"]), int(match["attempt"] or 1)
                found[job] = max(attempt, found.get(job, 1))
    return found
