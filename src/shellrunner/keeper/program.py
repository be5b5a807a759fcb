"""What is to be run, and the steps to it that may fail: becoming its user, entering its directory, finding it.

Used by `command` in the keeper and by `forked` in the child: whoever takes a step says which one failed, and
`command` puts it into words. Must not know pipes, limits or processes.
"""

import os
from enum import IntEnum
from typing import Any, NamedTuple


class Step(IntEnum):
    """A step of the way to a running command."""

    BECOME = 1  # its user
    ENTER = 2  # its directory
    FIND = 3  # it, along its PATH
    EXECUTE = 4


class Failed(Exception):
    """A step failed; `number` says why (errno(3))."""

    def __init__(self, step: Step, number: int | None) -> None:
        super().__init__(step, number)
        self.step, self.number = step, number or 0


class Program(NamedTuple):
    """A `start` message's part that execve(2) is told, and where."""

    argv: list[bytes]
    environment: dict[bytes, bytes]
    cwd: bytes

    @classmethod
    def of(cls, message: dict[str, Any]) -> "Program":
        """What a `start` message asks for."""
        environment = {name.encode(): value.encode() for name, value in message["env"].items()}
        return cls([word.encode() for word in message["argv"]], environment, message["cwd"].encode())

    def enter(self) -> None:
        """Enter its directory.

        Raises:
            Failed: it cannot be.
        """
        try:
            os.chdir(self.cwd)
        except OSError as error:
            raise Failed(Step.ENTER, error.errno) from None

    def find(self) -> bytes:
        """Where it is, once its directory was entered.

        Raises:
            Failed: not along its PATH.
        """
        program = self.argv[0]
        if b"/" in program:
            return program
        # execvp(3) would look along the keeper's own PATH; the job's is what counts.
        for directory in self.environment.get(b"PATH", b"").split(b":"):
            candidate = os.path.join(directory or b".", program)
            if os.access(candidate, os.X_OK) and os.path.isfile(candidate):
                return candidate
        raise Failed(Step.FIND, None)
