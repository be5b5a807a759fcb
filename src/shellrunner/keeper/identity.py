"""The identity of a process: boot id, pid namespace, pid and start time together are never reused.

Part of the keeper's public interface (`slot`, `protocol`, `identity`). A pid alone is reused, so the pidfd is opened
first and the start time checked after: a signal through the pidfd reaches that process or none. Must not know jobs.
"""

import functools
import os
import select
from contextlib import suppress
from typing import Any, NamedTuple


class ProcessIdentity(NamedTuple):
    """A process, in a form that can be stored. `start` is field 22 of /proc/pid/stat (proc_pid_stat(5))."""

    boot: str
    namespace: str
    pid: int
    start: int

    @classmethod
    def from_pid(cls, pid: int) -> "ProcessIdentity":
        """Return the identity of the process that has this pid now.

        Raises:
            ProcessLookupError: there is none.
        """
        return cls(boot_id(), pid_namespace(), pid, start_time(pid))

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "ProcessIdentity":
        """Return the identity that `to_dict` stored."""
        return cls(fields["boot"], fields["namespace"], fields["pid"], fields["start"])

    def to_dict(self) -> dict[str, Any]:
        """Return it in a form for JSON."""
        return self._asdict()

    def open_pidfd(self) -> int | None:
        """Return a pidfd of exactly this process, or None if it is gone (or of another boot or namespace)."""
        if (self.boot, self.namespace) != (boot_id(), pid_namespace()):
            return None
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        try:
            if start_time(self.pid) == self.start:
                return pidfd
        except ProcessLookupError:
            pass
        os.close(pidfd)
        return None

    def is_alive(self) -> bool:
        """Return whether the process has not ended; a zombie has."""
        pidfd = self.open_pidfd()
        if pidfd is None:
            return False
        try:
            ended = select.poll()
            ended.register(pidfd, select.POLLIN)
            return not ended.poll(0)
        finally:
            os.close(pidfd)


def is_zombie(state: bytes, threads: int) -> bool:
    """Return whether a process with this state and number of threads in /proc has ended (proc_pid_stat(5)).

    The state is that of its first thread, which may end before the others (pthread_exit(3)).
    """
    return state in (b"Z", b"X") and threads <= 1


def read_proc_file(path: str) -> bytes:
    """Return the content of a small file in /proc; `open` would cost codecs and buffers, a megabyte per keeper.

    Raises:
        OSError: it does not exist (any more), or may not be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 65_536)
    finally:
        with suppress(OSError):  # it is free all the same (close(2))
            os.close(descriptor)


@functools.cache
def boot_id() -> str:
    """Return the kernel's id of this boot (random(4))."""
    return read_proc_file("/proc/sys/kernel/random/boot_id").decode().strip()


@functools.cache
def pid_namespace() -> str:
    """Return the namespace of this process's pids (pid_namespaces(7))."""
    return os.readlink("/proc/self/ns/pid")


def stat_fields(pid: int) -> list[bytes]:
    """Return the fields of /proc/pid/stat from the third (state) on; the second may contain blanks and parentheses.

    Raises:
        ProcessLookupError: there is no such process.
    """
    try:
        return read_proc_file(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except FileNotFoundError:
        raise ProcessLookupError(pid) from None


def start_time(pid: int) -> int:
    """Return when the process started, in clock ticks since boot.

    Raises:
        ProcessLookupError: there is no such process.
    """
    return int(stat_fields(pid)[19])
