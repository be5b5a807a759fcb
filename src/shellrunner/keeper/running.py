"""One command while it is kept: its deadlines, why it is being ended if it is, and what was witnessed of it.

Owned by the keeper, one per job. Must not know the connection to the server or the slot.
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
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from . import command, process_tree
from .protocol import Message
from .pty import Pty
from .recorder import Recorder

CHUNK_SIZE = 65_536  # bytes read from a pipe at once: what a pipe holds
LINGER = 1.0  # seconds that children left behind have to be gone
_AGAIN = 0.05  # seconds between looks where nothing can be waited on


class RunningCommand:
    """The command that is being kept: its deadlines, and why it is being ended, if it is."""

    def __init__(self, message: Message, started: command.Command, recorder: Recorder) -> None:
        """Keep what was started for `message`, and store its output with `recorder`."""
        self.message, self.started, self.recorder = message, started, recorder
        self.job: int = message["job"]
        self.token: str = message["token"]
        self.open_pipes: set[int] = set()
        self.cause: str | None = None
        self.over: float | None = None
        self.wall_over = 0
        self.settle: Callable[[], None] | None = None
        timeout = message["timeout"]
        self._input = started.input
        self.due: float | None = None if timeout is None else started.clock + timeout
        self._kill_at = 0.0

    @property
    def leaves(self) -> bool:
        """Whether children that it left are let go."""
        return bool(self.message["leave_children"]) and not self.cause

    def take(self, stream: int, data: bytes) -> None:
        """Store output, unless it came after the command's own end."""
        if self.over is None:
            self.recorder.store(stream, data)
            if self.recorder.over_limit and not self.cause:
                self.end("output_limit")

    def drain(self) -> None:
        """Take what lies in the pipes now and no more: a child may go on writing for ever."""
        for stream, pipe in enumerate(self.started.pipes):
            if pipe in self.open_pipes:
                for data in self._input.rest() if isinstance(self._input, Pty) else _rest(pipe):
                    self.take(stream, data)

    def is_about(self, message: Message) -> bool:
        """Whether the message is about this job, under this token."""
        return (self.job, self.token) == (message["job"], message["token"])

    def give(self, message: Message) -> dict[str, Any]:
        """Take what an `input` message brings, if it can be; return what `took` says of it."""
        if self._input is None or not self.message.get("stream"):
            return {"offset": 0, "refused": "closed"}
        data = base64.b64decode(message["data"])
        refused = self._input.take(message["offset"], data, end=message["end"])
        return {"offset": self._input.offset, "refused": refused}

    def signal(self, signum: int) -> None:
        """Send a signal to the command's group, unless it has ended."""
        if not self._has_ended():
            with suppress(OSError):  # another user's (setuid), or no signal of this kernel
                os.killpg(self.started.pid, signum)

    def end(self, cause: str) -> None:
        """Begin to end the tree, unless that has begun or the command has ended by itself."""
        if self.cause or self._has_ended():
            return
        self.cause = cause
        self._kill_at = time.monotonic() + self.message["grace"]
        self.due = self._kill_at
        with suppress(OSError):
            os.killpg(self.started.pid, signal.SIGTERM)
            os.killpg(self.started.pid, signal.SIGCONT)  # a stopped one could not end

    def grace_left(self) -> bool:
        """Whether the tree still has time to end by itself."""
        return time.monotonic() < self._kill_at

    def next_look(self) -> float | None:
        """When something is due."""
        asked = self._input and self._input.due
        return min(self.due or math.inf, asked) if asked else self.due

    def look_at_the_clock(self) -> None:
        """Do what is due: the timeout, the kill after the grace, another look at a tree that is ending."""
        now = time.monotonic()
        if self._input and self._input.due and now >= self._input.due:
            self._input.look()
        if self.due is None or now < self.due:
            return
        if self.settle:
            self.due = now + _AGAIN
            self.settle()
        elif self.cause is None:
            self.due = None
            self.end("timed_out")
        else:
            self.due = now + _AGAIN
            with suppress(OSError):
                os.killpg(self.started.pid, signal.SIGKILL)
            process_tree.kill()

    def witnessed(self, status: int, usage: resource.struct_rusage, detail: str | None) -> dict[str, Any]:
        """The end as the kernel reported it, with why it was brought about."""
        said = command.reported(status)
        natural = "signalled" if said["exit_code"] is None else "exited"
        peak = usage.ru_maxrss if usage.ru_maxrss > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss else None
        return {
            **said,
            "ending": self.cause or ("output_limit" if self.recorder.over_limit else natural),
            "detail": detail,
            "wall": self.wall_over,
            "started": self.started.wall,
            "duration": round((self.over or 0.0) - self.started.clock, 6),
            "cpu_user": round(usage.ru_utime, 6),
            "cpu_system": round(usage.ru_stime, 6),
            "max_rss_bytes": peak and peak * 1024,
        }

    def can_be_reaped(self) -> bool:
        """Whether its status can be had without waiting: of a command that is traced, its tracer has it first.

        Whoever traces it may be its own child, and never take it (ptrace(2)).
        """
        return os.waitid(os.P_PIDFD, self.started.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _has_ended(self) -> bool:
        return self.over is not None or self.can_be_reaped()


def _rest(pipe: int) -> Iterator[bytes]:
    (waiting,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0\0\0\0"))
    while waiting > 0:
        try:
            data = os.read(pipe, min(waiting, CHUNK_SIZE))
        except BlockingIOError:
            return  # the command's child reads its own output
        waiting -= len(data)
        yield data
