"""A command's descriptors 0 to 2: pipes, a file in memory, or a terminal.

Made by `command` for one command, before it is started. Must not know processes.
"""

import os
from typing import Any

from .pty import Pty
from .stdin_buffer import StdinBuffer

# A file action of posix_spawn(3), with its arguments: DUP2 from, to.
Action = tuple[Any, ...]


class Stdio:
    """The reading ends in `pipes`, by stream; `stdin` if it is written; the `actions` to be done in the child."""

    def __init__(self, message: dict[str, Any]) -> None:
        """Open what a `start` message asks for.

        Raises:
            OSError: no descriptors or no terminals left.
        """
        self.pipes: list[int] = []
        self.stdin: StdinBuffer | None = None
        self.actions: list[Action] = []
        self._child_ends: list[int] = []  # only the command needs them
        try:
            if message.get("tty"):
                self._open_terminal(message)
            else:
                self._open_output_pipes(message)
                self._open_stdin(message)
            if user := message.get("user"):
                self._chown(user["uid"])
        except OSError:
            self.close_all()
            raise

    @property
    def is_terminal(self) -> bool:
        """Whether it is a terminal, of which the command is to be the foreground."""
        return isinstance(self.stdin, Pty)

    def enter_foreground(self, pid: int) -> None:
        """Make a child, which has executed no program yet, the leader of the terminal's foreground group.

        Raises:
            OSError: it has ended.
        """
        if isinstance(self.stdin, Pty):
            self.stdin.enter_foreground(pid)

    def close_child_ends(self) -> None:
        """Close the descriptors that only the command needs, once it is started."""
        ends, self._child_ends = self._child_ends, []
        close(*ends)

    def close_all(self) -> None:
        """Close everything: the command could not be started."""
        self.close_child_ends()
        if self.stdin:
            self.stdin.close()
        close(*self.pipes)

    def _chown(self, uid: int) -> None:
        # Opening /dev/stderr and the like opens the file behind the descriptor again, which only its owner may do.
        for descriptor in self._child_ends:
            os.fchown(descriptor, uid, -1)
        if isinstance(self.stdin, Pty):
            self.stdin.chown(uid)

    def _open_terminal(self, message: dict[str, Any]) -> None:
        text = (message.get("stdin") or "").encode()
        self.stdin = terminal = Pty(
            message["tty"], text, is_open=message.get("stream", False), echo=message.get("echo", False)
        )
        self.pipes = [terminal.master]
        terminal.become_controlling()
        self.actions = [(os.POSIX_SPAWN_DUP2, terminal.command_end, descriptor) for descriptor in range(3)]

    def _open_output_pipes(self, message: dict[str, Any]) -> None:
        # Pipes, never files: a file opened again through /dev/stderr is written from offset 0, over its content.
        for _ in range(1 if message.get("merge_stderr") else 2):
            reading, writing = os.pipe()
            self.pipes.append(reading)
            self._child_ends.append(writing)
            os.set_blocking(
                reading, False
            )  # a pipe that polled as readable may be empty by now: a child reads it too
        self.actions = [(os.POSIX_SPAWN_DUP2, self._child_ends[0], 1), (os.POSIX_SPAWN_DUP2, self._child_ends[-1], 2)]

    def _open_stdin(self, message: dict[str, Any]) -> None:
        if message.get("stream"):
            reading, writing = os.pipe()
            self._child_ends.append(reading)
            self.stdin = StdinBuffer(writing, is_open=True)
            os.set_blocking(writing, False)
        elif text := message.get("stdin"):
            self._child_ends.append(_memory_file(text.encode()))
        else:
            return  # the command inherits the keeper's own: /dev/null
        self.actions.append((os.POSIX_SPAWN_DUP2, self._child_ends[-1], 0))


def _memory_file(text: bytes) -> int:
    # It reads like a file: no process has to write it while the command runs, and a command may leave it unread.
    file = os.memfd_create("stdin", os.MFD_CLOEXEC)
    try:
        while text:
            text = text[os.write(file, text) :]
        os.lseek(file, 0, os.SEEK_SET)
    except OSError:
        close(file)
        raise
    return file


def close(*descriptors: int) -> None:
    """Close descriptors; an error of close(2) is none of the caller's, since they are free all the same."""
    for descriptor in descriptors:
        try:  # noqa: SIM105  `suppress` is three calls, and this is done for every pipe of every command
            os.close(descriptor)
        except OSError:
            pass
