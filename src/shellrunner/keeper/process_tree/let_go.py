"""Processes that a command left on purpose (`leave_children`): who keeps them once their keeper is gone.

A keeper stays as long as they live, reads what they write and discards it. If it is killed, they become the fork
server's, which must neither take them for the rest of a tree that is to be ended, nor let them die of SIGPIPE. So a
keeper hands over its ends of their pipes and their sessions before it lets them go.

They are recognized by their session, or as descendants of such a process. One that makes a session of its own after
that, and whose parent ends before the next look, is not; nor are any if the fork server is gone.
"""

import os
import socket
import struct
import time
from collections.abc import Collection, Iterator
from contextlib import suppress

from . import Process, descendants

_NUMBER_SIZE = 4
_MAX_SESSIONS = 1_000
_MAX_PIPES = 8
_CHUNK_SIZE = 65_536
_RETRY_DELAY = 0.05  # seconds after a failed read
LOOK_INTERVAL = 1.0  # seconds between looks at what a dead keeper has let go


def hand_over(channel: socket.socket, pipes: list[int]) -> None:
    """Hand children and pipes over to the fork server; if that fails, nobody but this keeper keeps them."""
    with suppress(OSError):
        sessions = sorted(_sessions(descendants(os.getpid())))[:_MAX_SESSIONS]
        message = struct.pack(f"{len(sessions) + 1}I", os.getpid(), *sessions)
        socket.send_fds(channel, [message], pipes)


class LetGoTrees:
    """What keepers have let go, as the fork server sees it."""

    def __init__(self) -> None:
        """Open the channel on which keepers hand over.

        Raises:
            OSError: no descriptors left.
        """
        self.receiving, self.sending = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in (self.receiving, self.sending):
            end.setblocking(False)  # before Python 3.13 `send_fds` and `recv_fds` ignore their flags
        self._sessions: dict[int, set[int]] = {}  # by keeper, while it lives
        self._pipes: dict[int, list[int]] = {}
        self._orphaned: set[int] = set()  # sessions whose keeper is dead
        self.drained: set[int] = set()  # their pipes, which are read here
        self._next_look = 0.0

    @property
    def is_needed(self) -> bool:
        """Whether something that was let go has no keeper any more."""
        return bool(self._orphaned or self.drained)

    def close(self) -> None:
        """Close everything, in a process that is no fork server."""
        self.receiving.close()
        _close([fd for fds in self._pipes.values() for fd in fds])
        _close(self.drained)

    def receive(self, keepers: Collection[int]) -> None:
        """Take what keepers hand over."""
        try:
            while True:
                size = _NUMBER_SIZE * (_MAX_SESSIONS + 1)
                message, pipes, _, _ = socket.recv_fds(self.receiving, size, _MAX_PIPES)
                keeper, *sessions = struct.unpack(f"{len(message) // _NUMBER_SIZE}I", message)
                if keeper in keepers:
                    self._pipes[keeper], self._sessions[keeper] = pipes, set(sessions)
                else:
                    _close(pipes)
        except BlockingIOError:
            pass
        except OSError:
            time.sleep(_RETRY_DELAY)

    def keeper_ended(self, keeper: int, status: int) -> None:
        """Take over what this keeper has let go, unless all of that is gone: then it exits with 0."""
        sessions, pipes = self._sessions.pop(keeper, set()), self._pipes.pop(keeper, [])
        if status == 0:
            _close(pipes)
        else:
            self._orphaned |= sessions
            self.drained.update(pipes)

    def spared(self) -> set[int]:
        """Return the children of this process that were let go, and learn the sessions below them."""
        if not self._orphaned:
            return set()
        me, found = os.getpid(), set()
        for child in descendants(me):
            if child.parent == me and not child.zombie and _sessions([child]) <= self._orphaned:
                found.add(child.pid)
        below = [process for pid in found for process in descendants(pid)]
        self._orphaned = _sessions(below) | {session for pid in found for session in _sessions_of(pid)}
        return found

    def is_look_due(self) -> bool:
        """Return whether it is time to look at them again."""
        now = time.monotonic()
        if not self.is_needed or now < self._next_look:
            return False
        self._next_look = now + LOOK_INTERVAL
        return True

    def drain(self, ready: Collection[int]) -> None:
        """Discard what was written into the pipes that are ready."""
        for pipe in self.drained & set(ready):
            try:
                while data := os.read(pipe, _CHUNK_SIZE):
                    pass
            except BlockingIOError:
                continue
            except OSError:  # EIO: no process has the terminal open any more
                data = b""
            if not data:
                self.drained.discard(pipe)
                _close([pipe])


def _sessions(processes: Collection[Process]) -> set[int]:
    return {session for process in processes for session in _sessions_of(process.pid)}


def _sessions_of(pid: int) -> Iterator[int]:
    with suppress(OSError):
        yield os.getsid(pid)


def _close(descriptors: Collection[int]) -> None:
    for descriptor in descriptors:
        with suppress(OSError):
            os.close(descriptor)
