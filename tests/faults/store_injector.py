"""Make chosen calls of the store fail, or end the server there; loaded into a server by `failing_store`.

Every statement, fetch, commit and rollback of the history's connections is counted, and every call of `os` for a file
in the state directory (slots apart: they are the keepers'). The plan is read from a file, `plan` in the directory
that STORE_FAULTS names; the counts begin when that is replaced. Standard library only, and nothing of the program.

    CALL:FIRST:TIMES:FAULT:RUN      w.commit:1:3:FULL:17

CALL is w (the writing connection), r (a reading one), l (that of the event loop's thread) or f (a file), or one kind
of its calls: w.commit, f.fsync.
TIMES 0 is for ever. FAULT is one of `SQLITE`, with `-rollback` behind it if SQLite has ended the transaction, as it
does after some errors; the name of an errno; BUG, an error that nobody foresees; `before` or `after` (the server ends
before or after the call). Each hit leaves a line in `hits`.
"""

import contextlib
import errno
import os
import re
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

SQLITE = {
    "IOERR": "disk I/O error",
    "FULL": "database or disk is full",
    "BUSY": "database is locked",
    "READONLY": "attempt to write a readonly database",
    "CANTOPEN": "unable to open database file",
    "CORRUPT": "database disk image is malformed",
    "NOMEM": "",  # arrives as MemoryError
}
CRASHES = ("before", "after")
_BY_PATH = ("open", "unlink", "rename", "truncate", "stat", "statvfs", "mkdir", "scandir", "listdir")
_BY_DESCRIPTOR = ("pread", "read", "pwrite", "fsync", "posix_fallocate", "ftruncate", "fstat", "lseek")
_WORD = re.compile(r"[a-z]+")

_os_open, _os_write, _os_close, _os_stat, _os_exit = os.open, os.write, os.close, os.stat, os._exit
_readlink = os.readlink


class Faults:
    """The plan, and how many of its calls there were."""

    def __init__(self, directory: str) -> None:
        self.state_dir = directory + "/state"
        self._directory = directory
        self._lock = threading.Lock()
        self._seen: tuple[int, int] = (0, 0)
        self._count = 0
        self._call, self._first, self._times, self._fault, self._run = "", 0, 0, "", ""

    def next(self, call: str) -> str | None:
        """Count a call; return the fault that it has."""
        with self._lock:
            self._read()
            if not self._call or self._call not in (call, call.partition(".")[0]):
                return None
            self._count += 1
            if self._count < self._first or (self._times and self._count >= self._first + self._times):
                return None
            hits = _os_open(self._directory + "/hits", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            _os_write(hits, f"{self._run} {call} {self._count}\n".encode())
            _os_close(hits)
            return self._fault

    def _read(self) -> None:
        try:
            status = _os_stat(self._directory + "/plan")
        except FileNotFoundError:
            self._call = ""
            return
        if (status.st_ino, status.st_mtime_ns) == self._seen:
            return
        self._seen = status.st_ino, status.st_mtime_ns
        with open(self._directory + "/plan") as file:
            self._call, first, times, self._fault, self._run = file.read().split(":")
        self._first, self._times, self._count = int(first), int(times), 0


def _error(fault: str) -> Exception:
    if fault == "BUG":
        return RuntimeError("what nobody foresees")
    if fault == "NOMEM":
        return MemoryError()
    kind = sqlite3.DatabaseError if fault == "CORRUPT" else sqlite3.OperationalError
    error = kind(SQLITE[fault])
    error.sqlite_errorcode = getattr(sqlite3, f"SQLITE_{fault}")
    error.sqlite_errorname = f"SQLITE_{fault}"
    return error


def install() -> None:
    """Replace the calls of this process."""
    faults = Faults(os.environ.pop("STORE_FAULTS"))
    _wrap_connections(faults)
    _wrap_files(faults)


def _wrap_connections(faults: Faults) -> None:
    real_connect = sqlite3.connect
    roles = iter(["w", "s", "r", "r", "l"])  # writing, the snapshot of the opening, reading, on the loop

    class Cursor(sqlite3.Cursor):
        def execute(self, sql: str, *parameters: Any) -> Any:
            word = _WORD.search(sql.lower())
            return self._counted(word[0] if word else "", super().execute, sql, *parameters)

        def executemany(self, sql: str, *parameters: Any) -> Any:
            return self._counted("many", super().executemany, sql, *parameters)

        def fetchone(self) -> Any:
            return self._counted("fetch", super().fetchone)

        def fetchall(self) -> Any:
            return self._counted("fetch", super().fetchall)

        def __next__(self) -> Any:
            return self._counted("fetch", super().__next__)

        def _counted(self, kind: str, real: Callable[..., Any], *arguments: Any) -> Any:
            db = self.connection
            assert isinstance(db, Connection)
            try:
                return db.counted(kind, real, *arguments)
            except BaseException:
                self.close()  # as after a step that has failed: its statement is no longer in progress
                raise

    class Connection(sqlite3.Connection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._role = next(roles)

        def execute(self, *arguments: Any) -> Any:
            return self.cursor(Cursor).execute(*arguments)

        def executemany(self, *arguments: Any) -> Any:
            return self.cursor(Cursor).executemany(*arguments)

        def executescript(self, script: str) -> Any:
            return self.counted("script", super().executescript, script)

        def rollback(self) -> None:
            self.counted("rollback", super().rollback)

        def counted(self, kind: str, real: Callable[..., Any], *arguments: Any) -> Any:
            fault = faults.next(f"{self._role}.{kind}")
            if fault is None:
                return real(*arguments)
            if fault == "before":
                _os_exit(97)
            if fault == "after":
                real(*arguments)
                _os_exit(98)
            name, _, rollback = fault.partition("-")
            if rollback and self.in_transaction:
                super().rollback()
            raise _error(name)

    def connect(path: str, **options: Any) -> Any:
        if not str(path).endswith("history.db"):
            return real_connect(path, **options)
        return real_connect(path, factory=Connection, **options)

    sqlite3.connect = connect  # type: ignore[assignment]


def _wrap_files(faults: Faults) -> None:
    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def replacement(*arguments: Any, **options: Any) -> Any:
            fault = faults.next(f"f.{name}") if arguments and _is_ours(arguments[0]) else None
            if fault is None:
                return real(*arguments, **options)
            if fault == "before":
                _os_exit(97)
            if fault == "after":
                real(*arguments, **options)
                _os_exit(98)
            raise OSError(getattr(errno, fault), os.strerror(getattr(errno, fault)))

        return replacement

    def _is_ours(target: Any) -> bool:
        path = ""
        if isinstance(target, int):
            with contextlib.suppress(OSError):
                path = _readlink(f"/proc/self/fd/{target}")
        elif isinstance(target, str | os.PathLike):
            path = os.fspath(target)
        return path.startswith(faults.state_dir) and "/slots" not in path

    for name in (*_BY_PATH, *_BY_DESCRIPTOR):
        setattr(os, name, wrap(name, getattr(os, name)))
