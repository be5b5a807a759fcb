"""Which process is meant: boot id, pid namespace, pid and start time together name one process for ever.

A pid alone does not: it is given again. So the pidfd is opened first and the start time checked after; whatever
is then signalled through the pidfd is that process or nobody.
"""

import functools
import os
from typing import Any, NamedTuple


class ProcessIdentity(NamedTuple):
    """A process, in a form that can be written down. `start` is field 22 of /proc/pid/stat (proc_pid_stat(5))."""

    boot: str
    namespace: str
    pid: int
    start: int

    @classmethod
    def from_pid(cls, pid: int) -> "ProcessIdentity":
        """Say who the process `pid` is now.

        Raises:
            ProcessLookupError: there is none.
        """
        return cls(boot_id(), pid_namespace(), pid, start_time(pid))

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "ProcessIdentity":
        """The inverse of `to_dict`."""
        return cls(fields["boot"], fields["namespace"], fields["pid"], fields["start"])

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
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


def read_proc_file(path: str) -> bytes:
    """A small file of /proc as it is, without what `open` drags along: codecs, buffers, a megabyte per keeper.

    Raises:
        OSError: it is not there (any more), or not for us.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 65_536)
    finally:
        os.close(descriptor)


@functools.cache
def boot_id() -> str:
    """The kernel's id of this boot (random(4))."""
    return read_proc_file("/proc/sys/kernel/random/boot_id").decode().strip()


@functools.cache
def pid_namespace() -> str:
    """The namespace in which this process counts pids (pid_namespaces(7))."""
    return os.readlink("/proc/self/ns/pid")


def stat_fields(pid: int) -> list[bytes]:
    """The fields of /proc/pid/stat from the third (state) on: the second may hold blanks and parentheses.

    Raises:
        ProcessLookupError: there is no such process.
    """
    try:
        return read_proc_file(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except FileNotFoundError:
        raise ProcessLookupError(pid) from None


def start_time(pid: int) -> int:
    """When the process started, in clock ticks since boot.

    Raises:
        ProcessLookupError: there is no such process.
    """
    return int(stat_fields(pid)[19])
