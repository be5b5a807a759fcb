"""The high-water mark: a small synced file that says how far the history has come, whatever becomes of `history.db`.

Owned by the store. A restored or removed history is recognized by it, and job ids continue above it. Knows one kind
of file; must not know SQL.

The generation is a part of the file's name (`generation.17`): a backup that is copied over the directory puts an
older file beside it, and does not replace it. Order of writes: job ids are reserved here before they are committed in
the history, a generation is committed in the history before it is written here. So the history is never behind this
file, unless it was replaced by an older one.
"""

import json
import os
import re
import threading
from contextlib import suppress
from typing import Final, NamedTuple

from shellrunner.directory_sync import sync_directory
from shellrunner.errors import StoreUnavailable

_NAME: Final = re.compile(r"generation\.(0|[1-9][0-9]{0,17})")
_SIZE: Final = 400  # bytes; less than a sector, so that a rewrite is never torn
_BLOCK: Final = 1000  # job ids reserved at once: one fsync for that many jobs


class HighWater(NamedTuple):
    """How far a history has come.

    history: its id. generation: the latest. checkpointed: a generation that `history.db` itself has, without its WAL.
    ids: no job id above this one has been given.
    home, database, wal: the directory's lock file, the database and its WAL, as `home` identifies them.
    """

    history: str
    generation: int
    checkpointed: int = 0
    ids: int = 0
    home: str = ""
    database: str = ""
    wal: str = ""


def names(state_dir: str) -> list[str]:
    """Return the names of the files, the newest first."""
    found = [match for name in os.listdir(state_dir) if (match := _NAME.fullmatch(name))]
    return [match.string for match in sorted(found, key=lambda match: -int(match[1]))]


def read(state_dir: str) -> HighWater | None:
    """Return what is known; None if there is no file. Of a damaged one only the generation counts."""
    found = names(state_dir)
    if not found:
        return None
    marks = [_read_file(f"{state_dir}/{name}", int(name.rpartition(".")[2])) for name in found]
    readable = [mark for mark in marks if mark.history] or marks
    return readable[0]._replace(generation=marks[0].generation, ids=max(mark.ids for mark in marks))


def remove(state_dir: str) -> None:
    """Remove every file, for a new history."""
    for name in names(state_dir):
        os.unlink(f"{state_dir}/{name}")


class HighWaterFile:
    """The file of an open history. Used by several threads."""

    def __init__(self, state_dir: str, mark: HighWater) -> None:
        """Begin with `mark`, which is not written yet; its `ids` is the last one that was given."""
        self._state_dir = state_dir
        self._lock = threading.Lock()
        self._last_id = mark.ids
        self._mark = mark

    @property
    def is_checkpointed(self) -> bool:
        """Whether `history.db` itself has the generation that was written last."""
        return self._mark.checkpointed == self._mark.generation

    def begin(self, count: int = 0) -> None:
        """Write the mark, with job ids reserved: a block of them, and at least `count`.

        Raises:
            OSError: it could not be written.
        """
        with self._lock:
            mark = self._mark._replace(ids=self._last_id + max(_BLOCK, count))
            self._write(mark)
            self._mark = mark

    def raise_generation(self, generation: int, *, is_checkpointed: bool) -> None:
        """Write a generation that the history has committed, and perhaps checkpointed.

        Raises:
            OSError: it could not be written; the earlier one still holds.
        """
        with self._lock:
            mark = self._mark._replace(generation=max(generation, self._mark.generation))
            if is_checkpointed:
                mark = mark._replace(checkpointed=max(generation, mark.checkpointed))
            self._write(mark)
            self._mark = mark

    def release_ids(self) -> None:
        """Reserve no ids any more, from the next write on: no job is added after this."""
        with self._lock:
            self._mark = self._mark._replace(ids=self._last_id)

    def reserve_ids(self, count: int) -> None:
        """Reserve more ids if fewer than `count` are left, before so many jobs are added.

        Raises:
            StoreUnavailable: the file could not be written.
        """
        if self._last_id + count <= self._mark.ids:
            return
        try:
            self.begin(count)
        except OSError as error:
            raise StoreUnavailable(f"no job id could be reserved in {self._state_dir}: {error.strerror}") from None

    def id_given(self, job_id: int) -> None:
        """Note that a job has this id."""
        self._last_id = max(self._last_id, job_id)

    def _write(self, mark: HighWater) -> None:
        name = f"generation.{mark.generation}"
        file, created = _open(f"{self._state_dir}/{name}")
        try:
            os.pwrite(file, json.dumps(mark._asdict()).encode().ljust(_SIZE), 0)
            os.fsync(file)
        finally:
            os.close(file)
        if created:
            sync_directory(self._state_dir)  # the new name, before the old ones go
            for other in names(self._state_dir):
                if other != name:
                    with suppress(FileNotFoundError):
                        os.unlink(f"{self._state_dir}/{other}")


def _open(path: str) -> tuple[int, bool]:
    """Open a file to be written; return also whether it was created."""
    flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600), True
    except FileExistsError:
        return os.open(path, flags), False


def _read_file(path: str, generation: int) -> HighWater:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            content = json.loads(os.read(file, 2 * _SIZE))
        finally:
            os.close(file)
        history, *files = (str(content[name]) for name in ("history", "home", "database", "wal"))
        return HighWater(history, generation, int(content["checkpointed"]), int(content["ids"]), *files)
    except (OSError, ValueError, TypeError, KeyError):
        return HighWater("", generation)
