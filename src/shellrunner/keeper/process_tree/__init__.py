"""Signal or kill a whole process tree: every descendant of a subreaper, in whatever session or group it is.

Used by the keeper for its command, and by the fork server for what a killed keeper left behind. A subreaper
(prctl(2), PR_SET_CHILD_SUBREAPER) becomes the parent of every orphan below it, so its descendants are exactly what
the command started. Must not know jobs, slots or messages.
"""

import ctypes
import os
import signal
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from ..identity import is_zombie, read_proc_file, stat_fields
from ..slot import shorten

_PR_SET_CHILD_SUBREAPER = 36
_PIDFD_SIGNAL_PROCESS_GROUP = 4  # pidfd_send_signal(2), since Linux 6.9; before that EINVAL
_MAX_ROUNDS = 64
_MAX_COMMAND = 200  # characters of a command line in a description
# Looked up once, before any fork: ctypes makes a class for it, which would be private memory of every keeper.
_prctl = ctypes.CDLL(None, use_errno=True).prctl


class Process(NamedTuple):
    """A process in /proc. `start` distinguishes it from a later process with the same pid; `state` is ps(1)'s."""

    pid: int
    parent: int
    group: int
    start: int
    state: bytes
    threads: int

    @property
    def zombie(self) -> bool:
        """Whether it has ended, all of its threads, and is not reaped."""
        return is_zombie(self.state, self.threads)

    @property
    def is_stopped(self) -> bool:
        """Whether it is stopped, by a signal or by its tracer."""
        return self.state in (b"T", b"t")

    @property
    def is_busy(self) -> bool:
        """Whether it runs, waits for a processor or for a disk."""
        return self.state in (b"R", b"D")


def become_subreaper() -> None:
    """Make this process the parent of every orphan below it; not inherited by fork.

    Raises:
        OSError: the kernel refused.
    """
    if _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl PR_SET_CHILD_SUBREAPER")


def processes() -> Iterator[Process]:
    """Yield every process; one that ends meanwhile is left out."""
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(ProcessLookupError):
                fields = stat_fields(int(name))
                parent, group, threads, start = (int(fields[index]) for index in (1, 2, 17, 19))
                yield Process(int(name), parent, group, start, fields[0], threads)


def descendants(root: int, spared: Collection[int] = ()) -> list[Process]:
    """Return the descendants of `root`, parents first, without the children `spared` and their descendants."""
    children: dict[int, list[Process]] = {}
    for process in processes():
        children.setdefault(process.parent, []).append(process)
    found = [child for child in children.get(root, ()) if child.pid not in spared]
    for process in found:  # grows during the iteration: breadth first
        found += children.get(process.pid, ())
    return found


def living(root: int) -> list[Process]:
    """Return the descendants of `root` that have not ended, parents first."""
    return [process for process in descendants(root) if not process.zombie]


def signal_groups(tree: Iterable[Process], signum: int) -> None:
    """Send a signal once to every process group that a process of the tree is in.

    To the group, not to each process: kill(2) reaches all members at once, so that none which is just being forked
    is left out. A group's members are descendants too, since its session was made by one.
    """
    groups: dict[int, list[Process]] = {}
    for process in tree:
        groups.setdefault(process.group, []).append(process)
    for group, members in groups.items():
        # 0: the group's number is of another pid namespace; to kill(2) it would mean our own group.
        if group in (0, os.getpgrp()):
            for process in members:
                send_signal(process, signum)
        else:
            _signal_group(group, members, signum)


def _signal_group(group: int, members: list[Process], signum: int) -> None:
    """Signal the group if one of these processes still is in it: else its number may be a stranger's by now."""
    leader = next((process for process in members if process.pid == group), None)
    if leader and send_signal(leader, signum, _PIDFD_SIGNAL_PROCESS_GROUP):
        return
    # Without a leader, or before Linux 6.9. Numbers are given out in turn, so one that was just in use is not reused
    # between the check and the signal.
    for process in members:
        with suppress(OSError):
            fields = stat_fields(process.pid)
            if (int(fields[19]), int(fields[2])) == (process.start, group):
                os.killpg(group, signum)
                return


def kill(spared: Collection[int] = ()) -> None:
    """Stop, then kill, every descendant of this process.

    They are stopped first, and looked for again until no new one is found: a stopped process does not fork, so the
    search ends, where killing one by one would lag behind a tree that keeps forking. First groups, all of whose
    members stop at once; then each process, which may have left its group meanwhile.

    Children are killed before their parents: when a parent ends, the kernel sends HUP and CONT to a stopped group
    that is orphaned by that (setpgid(2)), and to the foreground of a terminal when its session's leader ends. A shell
    there that handles HUP would go on with its next step until it is killed itself.
    """
    me = os.getpid()
    stopped: dict[tuple[int, int], Process] = {}
    for _ in range(_MAX_ROUNDS):
        found = descendants(me, spared)
        fresh = [p for p in found if not p.zombie and (p.pid, p.start) not in stopped]
        if not fresh:
            break
        signal_groups(fresh, signal.SIGSTOP)
        for process in fresh:
            send_signal(process, signal.SIGSTOP)
            stopped[process.pid, process.start] = process
    for process in reversed(stopped.values()):
        send_signal(process, signal.SIGKILL)


def send_signal(process: Process, signum: int, flags: int = 0) -> bool:
    """Signal exactly this process, or a group that `flags` means; return whether the kernel has done so."""
    # The pidfd first, the start time after: the signal reaches the process that was found, or none.
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:  # it has ended, or there are no descriptors left
        return flags == 0 and _signal_by_pid(process, signum)
    try:
        if int(stat_fields(process.pid)[19]) != process.start:
            return False
        signal.pidfd_send_signal(pidfd, signum, None, flags)
    except OSError:  # it has ended, or is another user's (setuid), or the kernel does not know the flags
        return flags == 0 and _signal_by_pid(process, signum)
    finally:
        with suppress(OSError):
            os.close(pidfd)
    return True


def _signal_by_pid(process: Process, signum: int) -> bool:
    # Where pidfds fail; numbers are given out in turn, as for `_signal_group`.
    try:
        if int(stat_fields(process.pid)[19]) == process.start:
            os.kill(process.pid, signum)
            return True
    except OSError:
        pass
    return False


def describe(pid: int) -> str:
    """Return a process's command line in one line, without control characters; `[name]` if it has none.

    Raises:
        OSError: it is gone, or may not be looked at.
    """
    words = read_proc_file(f"/proc/{pid}/cmdline").rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    line = " ".join(words.split()) or f"[{read_proc_file(f'/proc/{pid}/comm').decode(errors='replace').strip()}]"
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in shorten(line, _MAX_COMMAND))
