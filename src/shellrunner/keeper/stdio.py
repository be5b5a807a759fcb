"""What a command's descriptors 0 to 2 are: pipes, a file in memory, or a terminal.

Made by `command` for one command, before it is started. Must not know processes.
"""

import os
from contextlib import suppress
from typing import Any

from .pty import Pty
from .stdin_buffer import StdinBuffer

# A step for posix_spawn, with its arguments: DUP2 from, to; OPEN descriptor, path, flags, mode.
Action = tuple[Any, ...]


class Stdio:
    """Reading ends in `pipes`, by stream; `input`, if there is any that is written; what is done in the child."""

    def __init__(self, message: dict[str, Any]) -> None:
        """Make what a `start` message asks for.

        Raises:
            OSError: no descriptors or no terminals left.
        """
        self.pipes: list[int] = []
        self.input: StdinBuffer | None = None
        self.actions: list[Action] = []
        self._given: list[int] = []  # only the command needs them
        try:
            if message.get("tty"):
                self._lay_terminal(message)
            else:
                self._lay_pipes(message)
                self._lay_input(message)
            if user := message.get("user"):
                self._give_to(user["uid"])
        except OSError:
            self.close_all()
            raise

    def close_child_ends(self) -> None:
        """Close what only the command needs, once it has it."""
        for descriptor in self._given:
            os.close(descriptor)
        self._given = []

    def close_all(self) -> None:
        """Close everything: there is no command."""
        self.close_child_ends()
        if self.input:
            self.input.close()
        for descriptor in self.pipes:
            with suppress(OSError):
                os.close(descriptor)

    def _give_to(self, uid: int) -> None:
        # /dev/stderr and the like open what is behind the descriptor once more, which its owner alone may do.
        for descriptor in self._given:
            os.fchown(descriptor, uid, -1)
        if isinstance(self.input, Pty):
            self.input.give_to(uid)

    def _lay_terminal(self, message: dict[str, Any]) -> None:
        text = (message["stdin"] or "").encode()
        self.input = terminal = Pty(message["tty"], text, is_open=message.get("stream", False))
        self.pipes = [terminal.screen]
        # A session without a terminal gets the first that its leader opens (tty_ioctl(4)), and posix_spawn has made
        # the session by then, in glibc and in musl.
        opened = (os.POSIX_SPAWN_OPEN, 0, terminal.path, os.O_RDWR, 0)
        self.actions = [opened, (os.POSIX_SPAWN_DUP2, 0, 1), (os.POSIX_SPAWN_DUP2, 0, 2)]

    def _lay_pipes(self, message: dict[str, Any]) -> None:
        # Pipes, never files: a file opened again through /dev/stderr starts at 0 and overwrites what is there.
        for _ in range(1 if message["merge_stderr"] else 2):
            reading, writing = os.pipe()
            self.pipes.append(reading)
            self._given.append(writing)
            os.set_blocking(reading, False)  # a pipe that was readable may have been drained meanwhile
        self.actions = [(os.POSIX_SPAWN_DUP2, self._given[0], 1), (os.POSIX_SPAWN_DUP2, self._given[-1], 2)]

    def _lay_input(self, message: dict[str, Any]) -> None:
        if message.get("stream"):
            reading, writing = os.pipe()
            self._given.append(reading)
            self.input = StdinBuffer(writing, is_open=True)
            os.set_blocking(writing, False)
        elif message["stdin"]:
            self._given.append(_file_of(message["stdin"].encode()))
        else:
            return  # the command has the keeper's own: /dev/null
        self.actions.append((os.POSIX_SPAWN_DUP2, self._given[-1], 0))


def _file_of(text: bytes) -> int:
    # Memory that reads like a file: nobody has to feed it, and a command that reads none of it costs nothing.
    file = os.memfd_create("stdin", os.MFD_CLOEXEC)
    while text:
        text = text[os.write(file, text) :]
    os.lseek(file, 0, os.SEEK_SET)
    return file
