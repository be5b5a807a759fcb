"""The program of a command, and the steps of its start that may fail.

Used by `command` in the keeper and by `fork_exec` in the child: each raises which step failed, and `command`
describes it. Must not know pipes, limits or processes.
"""

import os
from enum import IntEnum
from typing import Any, NamedTuple


class StartStep(IntEnum):
    """A step of a command's start."""

    SWITCH_USER = 1
    ENTER_DIRECTORY = 2
    FIND_PROGRAM = 3
    EXECUTE = 4


class StepFailed(Exception):
    """A step failed; `errno` says why (errno(3))."""

    def __init__(self, step: StartStep, errno: int | None) -> None:
        super().__init__(step, errno)
        self.step, self.errno = step, errno or 0


class Program(NamedTuple):
    """The part of a `start` message that execve(2) takes, and the working directory."""

    argv: list[bytes]
    environment: dict[bytes, bytes]
    cwd: bytes

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> "Program":
        """Return the program of a `start` message."""
        environment = {name.encode(): value.encode() for name, value in message["env"].items()}
        return cls([word.encode() for word in message["argv"]], environment, message["cwd"].encode())

    def enter(self) -> None:
        """Enter its directory.

        Raises:
            StepFailed: the directory cannot be entered.
        """
        try:
            os.chdir(self.cwd)
        except OSError as error:
            raise StepFailed(StartStep.ENTER_DIRECTORY, error.errno) from None

    def find(self) -> bytes:
        """Return the program's path; its directory must have been entered.

        Raises:
            StepFailed: it is not in a directory of its PATH.
        """
        program = self.argv[0]
        if b"/" in program:
            return program
        # execvp(3) would search the keeper's own PATH, not the job's.
        for directory in self.environment.get(b"PATH", b"").split(b":"):
            candidate = os.path.join(directory or b".", program)
            if os.access(candidate, os.X_OK) and os.path.isfile(candidate):
                return candidate
        raise StepFailed(StartStep.FIND_PROGRAM, None)
