"""A running command: its deadlines, why it is being terminated if it is, and the record of its end.

Owned by the keeper's loop, one per job. Must not know the connection to the server, or the slot.
"""

import base64
import fcntl
import math
import os
import resource
import signal
import struct
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from . import process_tree, reported_endings
from .command import Command, decode_status
from .protocol import Message
from .pty import Pty
from .recorder import Recorder

CHUNK_SIZE = 65_536  # bytes read from a pipe at once: what a pipe holds
_POLL_INTERVAL = 0.05  # seconds between checks where nothing can be waited on


class RunningCommand:
    """A command from its start until its end is recorded.

    `cause` is why its tree is being terminated (an ending), `ended_at` when the command itself had ended
    (time.monotonic()), `open_pipes` the descriptors at which its output is still read.
    """

    def __init__(self, message: Message, command: Command, recorder: Recorder) -> None:
        """Take what was started for `message`; its output goes to `recorder`."""
        self.message, self.command, self.recorder = message, command, recorder
        self.job: int = message["job"]
        self.token: str = message["token"]
        self.open_pipes: set[int] = set()
        self.cause: str | None = None
        self.ended_at: float | None = None
        self._ended_wall = 0
        timeout = message["timeout"]
        self._stdin = command.stdin
        # The timeout, the kill after the grace, or the next check of a tree that is ending.
        self._deadline: float | None = None if timeout is None else command.clock + timeout
        self._kill_at = 0.0

    @property
    def leaves_children(self) -> bool:
        """Whether its children may outlive it."""
        return bool(self.message["leave_children"]) and not self.cause

    def matches(self, message: Message) -> bool:
        """Return whether the message is about this job and this claim."""
        return (self.job, self.token) == (message["job"], message["token"])

    def store_output(self, stream: int, data: bytes) -> None:
        """Store output, unless it came after the command's own end."""
        if self.ended_at is None:
            self.recorder.store(stream, data)
            if self.recorder.over_limit and not self.cause:
                self.terminate(reported_endings.OUTPUT_LIMIT)

    def drain_pipes(self) -> None:
        """Store what is in the pipes now and no more: a child may go on writing for ever."""
        for stream, pipe in enumerate(self.command.pipes):
            if pipe in self.open_pipes:
                for data in self._stdin.read_rest() if isinstance(self._stdin, Pty) else _read_rest(pipe):
                    self.store_output(stream, data)

    def accept_input(self, message: Message) -> dict[str, Any]:
        """Accept or refuse the data of an `input` message; return the members of `took` that say which."""
        if self._stdin is None or not self.message.get("stream"):
            return {"offset": 0, "refused": "closed"}
        data = base64.b64decode(message["data"])
        refused = self._stdin.accept(message["offset"], data, end=message["end"])
        return {"offset": self._stdin.offset, "refused": refused}

    def send_signal(self, signum: int) -> None:
        """Send a signal to the command's group, unless the command has ended."""
        if not self._has_ended():
            with suppress(OSError):  # another user's process (setuid), or not a signal of this kernel
                os.killpg(self.command.pid, signum)

    def terminate(self, cause: str) -> None:
        """End the command: TERM and CONT go to its process group now, KILL to the whole tree after the grace.

        A process of the tree that has left the group (setsid(2)) gets KILL only. Does nothing if this has begun
        already, or if the command has ended.
        """
        if self.cause or self._has_ended():
            return
        self.cause = cause
        self._kill_at = self._deadline = time.monotonic() + self.message["grace"]
        with suppress(OSError):
            os.killpg(self.command.pid, signal.SIGTERM)
            os.killpg(self.command.pid, signal.SIGCONT)  # a stopped process does not handle TERM

    def has_grace_left(self) -> bool:
        """Return whether the tree still has time to end by itself."""
        return time.monotonic() < self._kill_at

    # Deadlines -------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """Return when the next deadline is due, if there is one."""
        stdin_due = self._stdin and self._stdin.due
        return min(self._deadline or math.inf, stdin_due) if stdin_due else self._deadline

    def is_due(self, now: float) -> bool:
        """Return whether a deadline of the command or its tree has passed."""
        return self._deadline is not None and now >= self._deadline

    def handle_stdin_deadline(self, now: float) -> None:
        """Poll the terminal, if that is due."""
        if self._stdin and self._stdin.due and now >= self._stdin.due:
            self._stdin.poll()

    def handle_deadline(self, now: float) -> None:
        """Terminate the command at its timeout; kill its tree after the grace, again and again."""
        if self.cause is None:
            self._deadline = None
            self.terminate(reported_endings.TIMED_OUT)
            return
        self.poll_again(now)
        with suppress(OSError):
            os.killpg(self.command.pid, signal.SIGKILL)
        process_tree.kill()

    def poll_again(self, now: float) -> None:
        """Set the next deadline to a moment from now: there is nothing to wait on."""
        self._deadline = now + _POLL_INTERVAL

    # The end ---------------------------------------------------------------------------------------------------

    def note_exit(self) -> None:
        """Note that the command has ended now; its tree is to be looked at at once."""
        self.ended_at = self._deadline = time.monotonic()
        self._ended_wall = time.time_ns() // 1_000_000

    def can_be_reaped(self) -> bool:
        """Return whether its status can be had without waiting; the tracer of a traced command has it first.

        The tracer may be its own child, and never take it (ptrace(2)).
        """
        # By its pid, which nobody else has until this keeper has reaped it.
        return os.waitid(os.P_PID, self.command.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def end_record(self, status: int, usage: resource.struct_rusage, detail: str | None) -> dict[str, Any]:
        """Return the slot's record of the end: what the kernel reported, and why it was terminated if it was."""
        reported = decode_status(status)
        natural = reported_endings.SIGNALLED if reported["exit_code"] is None else reported_endings.EXITED
        over_limit = self.recorder.over_limit
        peak = usage.ru_maxrss if usage.ru_maxrss > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss else None
        return {
            **reported,
            "ending": self.cause or (reported_endings.OUTPUT_LIMIT if over_limit else natural),
            "detail": detail,
            "wall": self._ended_wall,
            "started": self.command.wall,
            "duration": round((self.ended_at or 0.0) - self.command.clock, 6),
            "cpu_user": round(usage.ru_utime, 6),
            "cpu_system": round(usage.ru_stime, 6),
            # Until exec, the child is a copy of the keeper, so a peak below our own is the keeper's.
            "max_rss_bytes": peak and peak * 1024,
        }

    def _has_ended(self) -> bool:
        return self.ended_at is not None or self.can_be_reaped()


def _read_rest(pipe: int) -> Iterator[bytes]:
    (unread,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0\0\0\0"))
    while unread > 0:
        try:
            data = os.read(pipe, min(unread, CHUNK_SIZE))
        except BlockingIOError:
            return  # the command's child reads its own output
        unread -= len(data)
        yield data
