"""Spill files: output that exceeds a slot, in `runs/` of the state directory. Keepers write them.

Owned by the store, which reads and removes them. Knows names, sizes and bytes; must not know SQL or jobs' states.
"""

import asyncio
import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, Self

from shellrunner.errors import StoreUnavailable
from shellrunner.keeper.slot import DATA_CAPACITY, ENTRY_SIZE, INDEX_CAPACITY, data_path, index_path

_BLOCK_SIZE = 1 << 16  # at least a file system's
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
# See `keeper.slot`; earlier versions put no token into the name. A token is never a number, as an attempt is.
_NAME = re.compile(
    r"(?P<job>[1-9][0-9]{0,17})(?:\.(?P<attempt>[1-9][0-9]{0,8}))?"
    r"(?:\.(?=[0-9]*[A-Za-z-])(?P<token>[A-Za-z0-9-]+))?\.(?:out|idx)"
)


class SpillFile(NamedTuple):
    """A file in `runs/`: the attempt that its name says it is of. `token` is None in those of earlier versions."""

    name: str
    job: int
    attempt: int
    token: str | None


class Spill:
    """The spill files of one attempt, opened when they are needed. A missing file counts as an empty one."""

    def __init__(self, state_dir: str, job_id: int, attempt: int = 1, token: str | None = None) -> None:
        tokens = (token,) if token is None else (token, None)  # a keeper of an earlier version may have written them
        self._paths = [
            [f"{state_dir}/{path(job_id, attempt, each)}" for each in tokens] for path in (data_path, index_path)
        ]
        self._fds = [-1, -1]
        self.is_missing = False  # a file that was to be read was not there

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

    def extents(self) -> list[tuple[int, int]]:
        """Return the parts of the output that are there, by the positions of their begin and end.

        If the file of a running command is cut, its output goes on behind that, and the kernel fills up with zeros:
        as a hole, except in the blocks at its ends, so zeros beside a hole count as missing too.
        """
        try:
            fd = self._open(0)
            return [(DATA_CAPACITY + begin, DATA_CAPACITY + end) for begin, end in _written(fd, os.fstat(fd).st_size)]
        except FileNotFoundError:
            self.is_missing = True
            return []
        except OSError as error:
            raise StoreUnavailable(f"{self._paths[0][0]} cannot be read: {error.strerror}") from error

    @staticmethod
    def narrow(stream: int | None, value: int, first: int, count: int) -> range:
        """Return all of these entries: each is as near as any other."""
        return range(first, count)

    def signature(self) -> tuple[tuple[int, ...], ...]:
        """Return what changes whenever a file is written, cut or replaced."""
        return tuple(_signature(path) for paths in self._paths for path in paths)

    def entries(self) -> int:
        """Return the number of whole index entries in the file."""
        for path in self._paths[1]:
            with suppress(OSError):
                status = os.stat(path, follow_symlinks=False)
                return status.st_size // ENTRY_SIZE if stat.S_ISREG(status.st_mode) else 0
        return 0

    def _read(self, which: int, size: int, at: int) -> bytes:
        try:
            return os.pread(self._open(which), size, at)
        except FileNotFoundError:
            self.is_missing = True
            return b""
        except OSError as error:
            raise StoreUnavailable(f"{self._paths[which][0]} cannot be read: {error.strerror}") from error

    def _open(self, which: int) -> int:
        if self._fds[which] < 0:
            self._fds[which] = _open_first(self._paths[which])
        return self._fds[which]


def _open_first(paths: list[str]) -> int:
    """Open the first of these files that there is."""
    *others, last = paths
    for path in others:
        with suppress(FileNotFoundError):
            return _open_regular(path)
    return _open_regular(last)


def _open_regular(path: str) -> int:
    """Open a regular file; anything else in its place is as if there were no file."""
    try:
        fd = os.open(path, _READ)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            raise FileNotFoundError(errno.ENOENT, "not a regular file", path) from None
        raise
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise FileNotFoundError(errno.ENOENT, "not a regular file", path)


def _signature(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _written(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the parts of a file that were written: all but its holes, and the zeros beside them."""
    at = 0
    while at < size:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            return
        end = min(size, os.lseek(fd, begin, os.SEEK_HOLE))
        at = end
        if begin > 0:
            block = os.pread(fd, min(_BLOCK_SIZE, end - begin), begin)
            begin += len(block) - len(block.lstrip(b"\0"))
        if end < size:
            first = max(begin, end - _BLOCK_SIZE)
            end = first + len(os.pread(fd, end - first, first).rstrip(b"\0"))
        if begin < end:
            yield begin, end


class SpillRemover:
    """Removes the spill files of deleted results in a thread, because freeing a large file may take long."""

    def __init__(self, state_dir: str) -> None:
        self._state_dir = state_dir
        self._discarded: asyncio.Queue[tuple[int, tuple[str | None, ...], int] | None] = asyncio.Queue()

    def discard(self, job_id: int, tokens: tuple[str | None, ...] = (None,), first: int = 1) -> None:
        """Schedule the removal of a job's files; `tokens`: of each attempt, from the first one that is meant on.

        Call it after the commit that makes them superfluous.
        """
        self._discarded.put_nowait((job_id, tokens, first))

    async def done(self) -> None:
        """Return once everything that was discarded so far is removed."""
        await self._discarded.join()

    def close(self) -> None:
        """Let `run` return once everything discarded was removed."""
        self._discarded.put_nowait(None)

    async def run(self) -> None:
        """Remove what is discarded, until `close`."""
        while (discarded := await self._discarded.get()) is not None:
            await asyncio.to_thread(remove, self._state_dir, *discarded)
            self._discarded.task_done()


def remove(state_dir: str, job_id: int, tokens: tuple[str | None, ...] = (None,), first: int = 1) -> None:
    """Remove the spill files of a job's attempts, whose claim tokens these are, as far as there are any."""
    for attempt, token in enumerate(tokens, first):
        for each in {token, None}:
            for path in (data_path(job_id, attempt, each), index_path(job_id, attempt, each)):
                with suppress(OSError):
                    os.unlink(f"{state_dir}/{path}")


def attempt_of(path: str) -> tuple[int, int] | None:
    """Return the job and the attempt to which a file in `runs/` belongs; None if it is no spill file."""
    match = _NAME.fullmatch(path.removeprefix("runs/"))
    return (int(match["job"]), int(match["attempt"] or 1)) if match else None


def find_all(state_dir: str) -> list[SpillFile]:
    """Return every spill file."""
    with os.scandir(f"{state_dir}/runs") as listing:
        matches = [match for entry in listing if (match := _NAME.fullmatch(entry.name))]
    return [
        SpillFile(match.string, int(match["job"]), int(match["attempt"] or 1), match["token"]) for match in matches
    ]
