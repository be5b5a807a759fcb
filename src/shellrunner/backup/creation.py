"""Making a backup (the package has the order of the steps).

Runs in a process of its own, as a user who may read the state directory; never takes the server's lock. Must not know
SQL or how slots are laid out.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shellrunner import __version__
from shellrunner.backup import private_files
from shellrunner.backup.manifest import HISTORY, NAME, RUNS, UNFINISHED_SUFFIX, Manifest
from shellrunner.backup.private_files import FileSum, readable_errors
from shellrunner.clock import Millis, format_rfc3339
from shellrunner.errors import NotDone, ShellrunnerError, StoreUnavailable
from shellrunner.keeper.slot import DATA_CAPACITY, ENTRY_SIZE, INDEX_CAPACITY, data_path, index_path
from shellrunner.model import End, Ending, Volume
from shellrunner.store import Head
from shellrunner.store.output import spill
from shellrunner.store.sqlite.copying.snapshot import (
    HistoryCopy,
    HistoryFacts,
    LiveHistory,
    RunningJobRow,
    open_copy,
    open_live,
)
from shellrunner.supervisor.verdict import output_so_far


def back_up(state_dir: Path, target: Path) -> Manifest:
    """Make a backup of the state directory in `target`, which must not exist; return its manifest.

    Raises:
        ShellrunnerError: it could not be made; nothing was left behind, and nothing changed.
    """
    check_places(state_dir, target)
    with readable_errors("the backup was not made"), _building(target) as building:
        backup = _Backup(state_dir, building)
        try:
            return backup.make()
        except StoreUnavailable as error:
            raise ShellrunnerError(f"the backup was not made: {error.detail}") from None


def check_places(state_dir: Path, target: Path) -> None:
    """Check that there is a history in the state directory, and a place for the backup outside of it.

    Raises:
        ShellrunnerError: there is not.
    """
    if os.path.lexists(target):
        raise ShellrunnerError(f"{target} exists already: name a new directory for the backup")
    inside = state_dir.resolve()
    if inside in (target.resolve(), *target.resolve().parents):
        raise ShellrunnerError(f"{target} is inside the state directory {state_dir}: back up to another place")
    if not target.parent.is_dir():
        raise ShellrunnerError(f"{target.parent} is not a directory: create it first")
    try:
        is_history = stat.S_ISREG(os.lstat(state_dir / HISTORY).st_mode)
        os.listdir(state_dir / RUNS)
    except FileNotFoundError as error:
        advice = "name the state directory with --state-dir or --config"
        raise ShellrunnerError(f"there is no history in {state_dir}: {error.filename} is missing; {advice}") from None
    except OSError as error:
        raise ShellrunnerError(f"cannot read {error.filename}: {error.strerror}") from None
    if not is_history:
        raise ShellrunnerError(f"{state_dir / HISTORY} is not a regular file")


@contextmanager
def _building(target: Path) -> Iterator[Path]:
    """Yield a directory beside the target; at the end, give it the target's name, or remove it if anything fails."""
    building = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=UNFINISHED_SUFFIX, dir=target.parent))
    try:
        yield building
        private_files.sync_tree(building)
        if os.path.lexists(target):
            raise FileExistsError(17, "it was created meanwhile", str(target))
        building.rename(target)
        private_files.sync(target.parent)
    finally:
        with suppress(FileNotFoundError):
            shutil.rmtree(building)


class _Backup:
    def __init__(self, state_dir: Path, building: Path) -> None:
        self._state_dir, self._building = state_dir, building
        self._files: dict[str, FileSum] = {}
        self._lost: set[tuple[int, int]] = set()

    def make(self) -> Manifest:
        (self._building / RUNS).mkdir(mode=0o700)
        history = self._building / HISTORY
        private_files.create(history)
        with open_live(str(self._state_dir / HISTORY)) as live:
            self._copy_ended(live)
            moment = live.copy_to(str(history))
            with open_copy(str(history)) as copy:
                self._end_running(copy, moment)
                self._complete(live, copy)
                copy.end_sessions()
                copy.drop_plain_secrets()
                incomplete, facts = self._incomplete(copy), copy.facts()
        self._files[HISTORY] = private_files.sum_of(history)
        return self._write_manifest(moment, facts, incomplete)

    def _copy_ended(self, history: LiveHistory | HistoryCopy) -> None:
        """Copy the files, not copied yet, of attempts that have ended: they never change."""
        ended = self._ended(history, (f"{RUNS}/{name}" for name in os.listdir(self._state_dir / RUNS)))
        for path in sorted(ended - self._files.keys()):
            with suppress(FileNotFoundError):  # deleted since; `_complete` sees whether it should be there
                self._copy(path)

    def _ended(self, history: LiveHistory | HistoryCopy, paths: Iterable[str]) -> set[str]:
        """Return those of the paths that belong to attempts which had ended by themselves."""
        attempts = {path: attempt for path in paths if (attempt := spill.attempt_of(path)) is not None}
        ended = history.ended_attempts(set(attempts.values())) - self._lost
        return {path for path, attempt in attempts.items() if attempt in ended}

    def _copy(self, path: str, limit: int | None = None) -> None:
        self._files[path] = private_files.copy(self._state_dir / path, self._building / path, limit)

    def _end_running(self, copy: HistoryCopy, moment: Millis) -> None:
        """End the jobs that were running as `lost`, with what they had written."""
        running = copy.running()
        self._lost = {(row.id, row.attempt) for row in running}
        detail = f"it was running when the backup was made, at {format_rfc3339(moment)}"
        state = os.open(self._state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for row in running:
                volume, head, started = self._copy_so_far(state, row)
                end = End(Ending.LOST, moment, detail=detail, started=started)
                copy.end_running(row, end, volume, head)
        finally:
            os.close(state)

    def _copy_so_far(self, state: int, row: RunningJobRow) -> tuple[Volume, Head, Millis | None]:
        volume, head, entries, started = output_so_far(state, row.keeper, row.id, row.token)
        # A keeper of an earlier version named its files without the token.
        name = row.id, row.attempt, row.token
        token = (
            row.token if any((self._state_dir / path(*name)).exists() for path in (data_path, index_path)) else None
        )
        wanted = {
            data_path(row.id, row.attempt, token): volume.stored - DATA_CAPACITY,
            index_path(row.id, row.attempt, token): (entries - INDEX_CAPACITY) * ENTRY_SIZE,
        }
        for path, size in wanted.items():
            if size <= 0:
                continue
            with suppress(FileNotFoundError):
                self._copy(path, size)
            if path not in self._files or self._files[path].size < size:  # the job has ended since, and was deleted
                self._drop(wanted)
                return Volume(), Head(), started
        return volume, head, started

    def _complete(self, live: LiveHistory, copy: HistoryCopy) -> None:
        """Copy what else the history of this moment needs, and remove what it does not."""
        settled = {spill.attempt_of(path) for path in self._files} | self._lost
        self._copy_ended(copy)
        # The server removes files only after the deletion of their job was committed: those of a job that is still
        # there were all there to be copied.
        for job_id in {each.job for each in copy.spilled() if (each.job, each.attempt) not in settled}:
            if not live.has_result(job_id):
                with suppress(NotDone):  # it was to be retried: what its earlier attempt lacks is `incomplete`
                    copy.delete(job_id, result_only=live.exists(job_id))
        lost = {path for path in self._files if spill.attempt_of(path) in self._lost}
        self._drop(self._files.keys() - lost - self._ended(copy, self._files))

    def _drop(self, paths: Iterable[str]) -> None:
        for path in paths:
            self._files.pop(path, None)
            (self._building / path).unlink(missing_ok=True)

    def _incomplete(self, copy: HistoryCopy) -> dict[str, int]:
        """Return the files that lack bytes which the history promises, as they do in the state directory."""
        names = {spill.attempt_of(path): path for path in self._files if path.endswith(".out")}
        sizes = {
            names.get((each.job, each.attempt), data_path(each.job, each.attempt, each.token)): each.size
            for each in copy.spilled()
            if each.size
        }
        missing = {path: size - self._files.get(path, FileSum(0, "")).size for path, size in sizes.items()}
        return {path: size for path, size in sorted(missing.items()) if size > 0}

    def _write_manifest(self, moment: Millis, facts: HistoryFacts, incomplete: dict[str, int]) -> Manifest:
        manifest = Manifest(
            created=format_rfc3339(moment),
            program=__version__,
            **facts._asdict(),
            lost=len(self._lost),
            files=self._files,
            incomplete=incomplete,
        )
        private_files.create(self._building / NAME, manifest.to_bytes())
        return manifest
