"""Restoring a backup into a state directory that no server uses.

    restore.partial/    the files are copied here and checked; then the history is prepared: queues paused, ids raised
    set-aside-TIME/     what was there is moved here, and never deleted
    …                   the files are moved into place, `history.db` last; then restore.partial/ is removed

While restore.partial/ is there, no server starts: after a crash the files may be of two histories. Slots of keepers
that still live stay where they are, so that the server finds them. Must not know SQL.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from shellrunner.backup import private_files
from shellrunner.backup.manifest import HISTORY, RUNS, Manifest
from shellrunner.backup.private_files import readable_errors
from shellrunner.errors import ShellrunnerError, StoreUnavailable
from shellrunner.keeper.slot import SlotReader
from shellrunner.service.state_dir import RESTORING, locked
from shellrunner.store.output import spill
from shellrunner.store.sqlite.copying.snapshot import open_copy, open_live
from shellrunner.store.state_files import high_water

_SLOTS: Final = "slots"
_ASIDE: Final = "set-aside-"
_HISTORY_FILES: Final = (HISTORY, f"{HISTORY}-wal", f"{HISTORY}-shm", f"{HISTORY}-journal")


class Restoration(NamedTuple):
    """What was restored: the manifest, where the earlier files are, the next job id, and what is to be known."""

    manifest: Manifest
    set_aside: Path | None
    next_id: int
    notes: list[str]


def restore(source: Path, state_dir: Path, *, set_aside: bool = False) -> Restoration:
    """Restore the backup in `source`, after checking all of it.

    Raises:
        ShellrunnerError: it was not restored. What was there is unchanged, unless a file could not be moved: then no
            server starts here until a restore succeeds.
    """
    manifest = Manifest.read(source)
    with readable_errors("the backup was not restored"):
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(state_dir, restores=True):
            return _Restoring(source, state_dir, manifest).run(set_aside=set_aside)


class _Restoring:
    def __init__(self, source: Path, state_dir: Path, manifest: Manifest) -> None:
        self._source, self._state_dir, self._manifest = source, state_dir, manifest
        self._staging = state_dir / RESTORING
        self._notes: list[str] = []

    def run(self, *, set_aside: bool) -> Restoration:
        earlier = next(self._earlier(), None)
        if earlier and not set_aside:
            raise ShellrunnerError(
                f"{self._state_dir} already has a history ({earlier}): with --set-aside it is moved into a "
                "directory beside the restored one, and kept"
            )
        was_interrupted = self._staging.exists()
        try:
            last_id = self._stage()
        except BaseException:
            if not was_interrupted:  # else the files in place may be of two histories
                shutil.rmtree(self._staging, ignore_errors=True)
            raise
        aside = self._set_aside() if earlier else None
        self._move_into_place()
        return Restoration(self._manifest, aside, last_id + 1, self._notes)

    def _earlier(self) -> Iterator[str]:
        """Yield the paths of what belongs to a history that is there; slots of living keepers are left out."""
        for name in _HISTORY_FILES:
            if os.path.lexists(self._state_dir / name):
                yield name
        runs = self._state_dir / RUNS
        if os.path.lexists(runs) and (runs.is_symlink() or not runs.is_dir() or any(runs.iterdir())):
            yield RUNS
        yield from high_water.names(str(self._state_dir))
        yield from self._slots()

    def _slots(self) -> Iterator[str]:
        directory = self._state_dir / _SLOTS
        if not os.path.lexists(directory):
            return
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            names = os.listdir(fd)
            alive = {Path(name).stem for name in names if name.endswith(".slot") and _is_alive(fd, name)}
        finally:
            os.close(fd)
        yield from (f"{_SLOTS}/{name}" for name in names if Path(name).stem not in alive)

    def _stage(self) -> int:
        """Copy the backup into the staging directory, compare it with the manifest, and prepare its history."""
        last_id = max(self._highest_seen_ids(), default=0)
        shutil.rmtree(self._staging, ignore_errors=True)
        self._staging.mkdir(mode=0o700)
        (self._staging / RUNS).mkdir(mode=0o700)
        for path, expected in self._manifest.files.items():
            try:
                copied = private_files.copy(self._source / path, self._staging / path)
            except FileNotFoundError:
                raise ShellrunnerError(f"{self._source / path} is missing: use another backup") from None
            if copied != expected:
                raise ShellrunnerError(f"{self._source / path} is not as the manifest says: use another backup")
        last_id = max(last_id, self._manifest.last_id)
        try:
            with open_copy(str(self._staging / HISTORY)) as copy:
                reason = f"the history was restored from a backup: it is as of {self._manifest.created}"
                copy.hold(last_id, reason)
        except StoreUnavailable as error:
            raise ShellrunnerError(f"the backup was not restored: {error.detail}") from None
        self._take_ownership(self._staging)
        private_files.sync_tree(self._staging)
        private_files.sync(self._state_dir)
        return last_id

    def _highest_seen_ids(self) -> Iterator[int]:
        """Yield job ids that were given out in this state directory, as far as its files can be read."""
        for root in (self._state_dir, *self._state_dir.glob(f"{_ASIDE}*")):
            if os.path.lexists(root / HISTORY):
                yield self._last_id_of(root / HISTORY)
            if mark := high_water.read(str(root)):
                yield mark.ids
            for path in root.glob(f"{RUNS}*/*"):
                if (attempt := spill.attempt_of(path.name)) is not None:
                    yield attempt[0]
            for path in (root / _SLOTS).glob("**/*.slot"):
                yield from _ids_in_slot(path)

    def _last_id_of(self, history: Path) -> int:
        try:
            with open_live(str(history)) as earlier:
                return earlier.last_id()
        except StoreUnavailable as error:
            self._notes.append(f"the earlier history cannot be read, so its last id is not known: {error.detail}")
            return 0

    def _set_aside(self) -> Path:
        """Move what was there into a directory of its own."""
        aside = self._state_dir / time.strftime(f"{_ASIDE}%Y%m%dT%H%M%SZ", time.gmtime())
        while os.path.lexists(aside):
            aside = aside.with_name(f"{aside.name}-2")
        aside.mkdir(mode=0o700)
        (aside / _SLOTS).mkdir(mode=0o700)
        # The history first: a server would refuse its files without it, not mix them with those of another one.
        for path in sorted(self._earlier(), key=lambda path: (path not in _HISTORY_FILES, path)):
            (self._state_dir / path).rename(aside / path)
        self._take_ownership(aside)
        private_files.sync(aside)
        return aside

    def _move_into_place(self) -> None:
        runs = self._state_dir / RUNS
        with suppress(FileNotFoundError):
            runs.rmdir()  # empty, or it was set aside
        (self._staging / RUNS).rename(runs)
        (self._state_dir / _SLOTS).mkdir(mode=0o700, exist_ok=True)
        (self._staging / HISTORY).rename(self._state_dir / HISTORY)
        self._take_ownership(self._state_dir / _SLOTS)
        self._take_ownership(self._state_dir / "lock")
        private_files.sync(self._state_dir)
        self._staging.rmdir()
        private_files.sync(self._state_dir)

    def _take_ownership(self, path: Path) -> None:
        """Give files that root has made to the user of the state directory, who is the service's."""
        status = self._state_dir.stat()
        if os.geteuid() != 0 or (status.st_uid, status.st_gid) == (0, 0):
            return
        for each in (path, *path.rglob("*")):
            os.chown(each, status.st_uid, status.st_gid, follow_symlinks=False)


def _is_alive(directory: int, name: str) -> bool:
    try:
        slot = SlotReader(directory, name)
    except OSError:
        return False
    try:
        return not slot.keeper_is_gone()
    finally:
        slot.close()


def _ids_in_slot(path: Path) -> list[int]:
    try:
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            slot = SlotReader(fd, path.name)
        finally:
            os.close(fd)
    except OSError:
        return []
    try:
        return [record.job for record in slot.records()]
    finally:
        slot.close()
