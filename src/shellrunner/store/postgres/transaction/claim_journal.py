"""The claim journal: a file in this node's state directory that says which attempts of which jobs it has started.

Owned by the store, used on the writer's thread. It is synced before a keeper is given a job, once for all claims of a
batch, so a database that has forgotten a claim (a replica that lagged behind, a backup) does not have this node run
it twice. Bounded in size: the oldest records are overwritten. Must not know SQL.

The sync runs beside the database's COMMIT, as one after the other is twice as long a wait. So a record is written
before it is known whether there is a claim, and has a mark that says what is known:

    claim      COMMIT is sent; records without a mark are written and synced meanwhile
    confirm    COMMIT was answered: the mark "started", not synced; only then do keepers get their jobs
    withdraw   COMMIT has failed, or was not answered: the mark "withdrawn", not synced

A server that is killed leaves its marks to the kernel, so records without one are those of its last COMMIT. A host
that crashes may leave a few more. These are `doubtful`; the history decides on them when this node opens it. If it
is the one to which COMMIT was sent, it has forgotten nothing: what does not run under such a claim was never started,
or was put back. If it is another one (after a failover, a restore), they count as started: then a job whose COMMIT
had not come through is lost, although nothing ran, which is the safe side.

A mark is one byte, and writing it changes no other: so it cannot tear a record that is synced.
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
_MARK_AT: Final = _WIDTH - 2
_UNMARKED, _CONFIRMED, _WITHDRAWN = b" ", b"+", b"-"
_Record = tuple[int, bytes]  # its number, its text


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
        self._claiming: list[tuple[_Record, StartedAttempt]] = []  # COMMIT is under way
        self._claiming_in = ""
        self._claimed_in: dict[tuple[int, int], str] = {}  # of those that are doubtful
        self._histories: dict[tuple[int, int], str] = {}  # in which each was claimed, as far as that is known
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

    def was_claimed_in_another(self, job_id: int, token: str, history: str) -> bool:
        """Return whether this claim was made in another epoch, or on another server, than `history` names."""
        keys = [key for key, its_token in self._tokens.items() if key[0] == job_id and its_token == token]
        return any(self._histories.get(key, _digest(history)) != _digest(history) for key in keys)

    def doubtful(self, history: str) -> list[StartedAttempt]:
        """Return what an earlier server may have claimed in this history: it counts as started until `settle`."""
        digest = _digest(history)
        return [StartedAttempt(*key, self._tokens[key]) for key, each in self._claimed_in.items() if each == digest]

    def claim(self, attempts: Iterable[StartedAttempt], claimed_in: str) -> None:
        """Note that these are being claimed, and sync that; then they are confirmed or withdrawn."""
        self._claiming_in = _digest(claimed_in)
        self._claiming = [(self._record(_STARTED, each, claimed_in), each) for each in attempts]
        if self._claiming:
            self._write([record for record, _ in self._claiming])

    def confirm(self) -> None:
        """Note that what is being claimed is claimed, and that it will be started."""
        for (number, _), each in self._claiming:
            self._apply(number, _STARTED, each, self._claiming_in)
        self._mark(_CONFIRMED)

    def withdraw(self) -> None:
        """Note that nothing of what is being claimed will be started."""
        self._mark(_WITHDRAWN)

    def settle(self, attempt: StartedAttempt, *, is_claimed: bool) -> None:
        """Note whether a doubtful attempt was claimed."""
        key = (attempt.job_id, attempt.attempt)
        if self._claimed_in.pop(key, None) is None or is_claimed:
            return
        self._write([self._released(attempt)])

    def release(self, job_id: int, token: str) -> None:
        """Note that nothing was started under this claim; before the history says so, else its next claim is lost."""
        for key, its_token in self._tokens.items():
            if key[0] == job_id and its_token == token:
                self._write([self._released(StartedAttempt(*key, token))])
                return

    def _released(self, each: StartedAttempt) -> _Record:
        number, text = self._record(_RELEASED, each)
        self._apply(number, _RELEASED, each)
        return number, text

    def _record(self, kind: str, each: StartedAttempt, claimed_in: str = "") -> _Record:
        number = self._number
        self._number += 1
        self._vacate(number % self._max)
        text = f"{number} {kind} {each.job_id} {each.attempt} {each.token} {_digest(claimed_in)}"
        checked = f"{text} {zlib.crc32(text.encode()):08x}"
        return number, checked.ljust(_MARK_AT).encode() + _UNMARKED + b"\n"

    def _mark(self, mark: bytes) -> None:
        claiming, self._claiming = self._claiming, []
        if claiming:
            marked = [(number, text[:_MARK_AT] + mark + text[_MARK_AT + 1 :]) for (number, text), _ in claiming]
            self._write(marked, syncs=False)

    def _vacate(self, place: int) -> None:
        overwritten = self._places[place]
        # A later record of the same attempt may stand elsewhere; then this one is forgotten a little early.
        if overwritten is not None:
            self._tokens.pop(overwritten, None)
            self._claimed_in.pop(overwritten, None)
            self._histories.pop(overwritten, None)
        self._places[place] = None

    def _apply(self, number: int, kind: str, each: StartedAttempt, claimed_in: str = "") -> None:
        key, place = (each.job_id, each.attempt), number % self._max
        self._vacate(place)
        self._claimed_in.pop(key, None)
        self._histories.pop(key, None)
        if kind == _STARTED:
            self._places[place], self._tokens[key] = key, each.token
            if claimed_in:
                self._histories[key] = claimed_in
        elif self._tokens.get(key) == each.token:
            del self._tokens[key]

    def _write(self, records: list[_Record], *, syncs: bool = True) -> None:
        try:
            for run in self._runs(records):
                os.pwrite(self._file, b"".join(data for _, data in run), run[0][0] % self._max * _WIDTH)
            if syncs:
                os.fdatasync(self._file)
        except OSError as error:  # its disk fails: the slots on it say so, too, and end what runs there
            fields = {"reason": error.strerror, "repeats": "claim journal"}
            _log.error("the claim journal cannot be written", extra=fields)

    def _runs(self, records: list[_Record]) -> Iterator[list[_Record]]:
        """Yield the records in runs that stand one behind the other in the file."""
        run: list[_Record] = []
        for record in records:
            if run and record[0] % self._max == 0:
                yield run
                run = []
            run.append(record)
        yield run

    def _read(self) -> None:
        found: list[tuple[int, str, StartedAttempt, str, bytes]] = []
        data = os.pread(self._file, self._max * _WIDTH, 0)
        for start in range(0, len(data), _WIDTH):
            if data[start] == 0:
                continue
            record, mark = data[start : start + _MARK_AT], data[start + _MARK_AT : start + _MARK_AT + 1]
            with contextlib.suppress(ValueError):  # torn, or damaged
                text, _, checksum = record.decode().rstrip().rpartition(" ")
                if int(checksum, 16) == zlib.crc32(text.encode()):
                    number, kind, job_id, attempt, token, *claimed_in = text.split(" ")
                    each = StartedAttempt(int(job_id), int(attempt), token)
                    # Without a history: of an earlier version of this program, which wrote it after COMMIT.
                    found.append((int(number), kind, each, "".join(claimed_in), mark))
        for place, kind, each, history, mark in sorted(found):
            self._number = place + 1
            if mark == _WITHDRAWN:
                continue
            self._apply(place, kind, each, history)
            if kind == _STARTED and mark == _UNMARKED and history:
                self._claimed_in[each.job_id, each.attempt] = history


def _digest(history: str) -> str:
    return f"{zlib.crc32(history.encode()):08x}"
