"""The claim journal: a file in this node's state directory that says which attempts of which jobs it has started.

Owned by the store, used on the writer's thread. It is synced before a keeper is given a job, once for all claims of a
batch, so a database that has forgotten a claim (a replica that lagged behind, a backup) does not have this node run
it twice. Bounded in size: the oldest records are overwritten. Must not know SQL.
"""

import contextlib
import logging
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from shellrunner.directory_sync import sync_directory
from shellrunner.errors import StoreUnavailable

_log = logging.getLogger(__name__)

_WIDTH: Final = 96  # bytes of a record
MAX_RECORDS: Final = 1 << 16
_STARTED, _RELEASED = "started", "released"


class StartedAttempt(NamedTuple):
    """An attempt of a job, claimed under this token."""

    job_id: int
    attempt: int
    token: str


class ClaimJournal:
    """The journal. A claim under which nothing was started is released, so that the job may be claimed again."""

    def __init__(self, path: Path, max_records: int = MAX_RECORDS) -> None:
        """Open the journal, or make one.

        Raises:
            StoreUnavailable: it cannot be opened.
        """
        self._max = max_records
        self._tokens: dict[tuple[int, int], str] = {}
        self._places: list[tuple[int, int] | None] = [None] * max_records
        self._number = 0  # of the next record
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if os.fstat(self._file).st_size < max_records * _WIDTH:
                # Written, not only allocated: later syncs need no change of the file system's own.
                missing = max_records * _WIDTH - os.fstat(self._file).st_size
                os.pwrite(self._file, b"\0" * missing, os.fstat(self._file).st_size)
                os.fsync(self._file)
                sync_directory(path.parent)
            self._read()
        except OSError as error:
            raise StoreUnavailable(f"{path} cannot be used: {error.strerror}") from None

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    @property
    def job_ids(self) -> list[int]:
        """The jobs of which an attempt was started, as far as the records reach back."""
        return sorted({job_id for job_id, _ in self._tokens})

    def has_started(self, job_id: int, attempt: int, token: str | None = None) -> bool:
        """Return whether this attempt was started here, under this claim token if one is given."""
        found = self._tokens.get((job_id, attempt))
        return found is not None and token in (None, found)

    def start(self, attempts: Iterable[StartedAttempt]) -> None:
        """Note that these are being started, and sync that."""
        records = [self._record(_STARTED, each) for each in attempts]
        if records:
            self._write(records)

    def release(self, job_id: int, token: str) -> None:
        """Note that nothing was started under this claim; before the history says so, else its next claim is lost."""
        for key, its_token in self._tokens.items():
            if key[0] == job_id and its_token == token:
                self._write([self._record(_RELEASED, StartedAttempt(*key, token))])
                return

    def _record(self, kind: str, each: StartedAttempt) -> tuple[int, bytes]:
        number = self._number
        self._number += 1
        self._apply(number, kind, each)
        text = f"{number} {kind} {each.job_id} {each.attempt} {each.token}"
        checked = f"{text} {zlib.crc32(text.encode()):08x}"
        return number, checked.ljust(_WIDTH - 1).encode() + b"\n"

    def _apply(self, number: int, kind: str, each: StartedAttempt) -> None:
        key, place = (each.job_id, each.attempt), number % self._max
        overwritten = self._places[place]
        # A later record of the same attempt may stand elsewhere; then this one is forgotten a little early.
        if overwritten is not None:
            self._tokens.pop(overwritten, None)
        self._places[place] = key if kind == _STARTED else None
        if kind == _STARTED:
            self._tokens[key] = each.token
        elif self._tokens.get(key) == each.token:
            del self._tokens[key]

    def _write(self, records: list[tuple[int, bytes]]) -> None:
        try:
            for run in self._runs(records):
                os.pwrite(self._file, b"".join(data for _, data in run), run[0][0] % self._max * _WIDTH)
            os.fdatasync(self._file)
        except OSError as error:  # its disk fails: the slots on it say so, too, and end what runs there
            fields = {"reason": error.strerror, "repeats": "claim journal"}
            _log.error("the claim journal cannot be written", extra=fields)

    def _runs(self, records: list[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
        """Yield the records in runs that stand one behind the other in the file."""
        run: list[tuple[int, bytes]] = []
        for record in records:
            if run and record[0] % self._max == 0:
                yield run
                run = []
            run.append(record)
        yield run

    def _read(self) -> None:
        found: list[tuple[int, str, StartedAttempt]] = []
        data = os.pread(self._file, self._max * _WIDTH, 0)
        for start in range(0, len(data), _WIDTH):
            if data[start] == 0:
                continue
            with contextlib.suppress(ValueError):  # torn, or damaged
                text, _, checksum = data[start : start + _WIDTH].decode().rstrip().rpartition(" ")
                place, kind, job_id, attempt, token = text.split(" ")
                if int(checksum, 16) == zlib.crc32(text.encode()):
                    found.append((int(place), kind, StartedAttempt(int(job_id), int(attempt), token)))
        for number, kind, each in sorted(found):
            self._apply(number, kind, each)
            self._number = number + 1
