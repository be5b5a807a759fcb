"""The program of a command, and the steps of its start that may fail.

Used by `command` in the keeper and by `fork_exec` in the child: each raises which step failed, and `command`
describes it. The errors of execve(2) are about the file or about its interpreter, and do not say which, so once a
start has failed the beginning of the file is read. Must not know pipes, limits or processes.
"""

import errno
import os
import stat
from contextlib import suppress
from enum import IntEnum
from typing import Any, NamedTuple

_HEAD_SIZE = 256  # bytes that the kernel reads of a script's first line (BINPRM_BUF_SIZE, Linux 5.1)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_EXPLAINED = (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ETXTBSY)


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


def explain_refusal(program: Program, number: int, *, as_other_user: bool) -> str | None:
    """Return what is wrong with the program where errno `number` does not say it; None if nothing better is known.

    Changes the working directory. Another user learns nothing of a file that was closed to it.
    """
    if number not in _EXPLAINED or (as_other_user and number == errno.EACCES):
        return None
    with suppress(OSError, StepFailed):
        program.enter()
        path = program.find()
        status = os.stat(path)
        if reason := _describe_file(path, status, number):
            return reason
        if not as_other_user or status.st_mode & stat.S_IROTH:
            return _describe_head(_read_head(path), number)
    return None


def _describe_file(path: bytes, status: os.stat_result, number: int) -> str | None:
    if not stat.S_ISREG(status.st_mode):
        return "it is a directory" if stat.S_ISDIR(status.st_mode) else "it is not a regular file"
    if number == errno.ETXTBSY:
        return "it is open for writing (Text file busy)"
    return _describe_permissions(path, status) if number == errno.EACCES else None


def _describe_permissions(path: bytes, status: os.stat_result) -> str | None:
    if not status.st_mode & 0o111:
        return f"it is not executable (mode {stat.S_IMODE(status.st_mode):04o}): use chmod +x"
    if os.statvfs(path).f_flag & os.ST_NOEXEC:
        return "its file system is mounted with noexec"
    return None


def _read_head(path: bytes) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        return os.read(descriptor, _HEAD_SIZE)
    finally:
        os.close(descriptor)


def _describe_head(head: bytes, number: int) -> str | None:
    if head.startswith(b"#!"):
        return _describe_interpreter(head[2:].partition(b"\n")[0].strip(b" \t"), number)
    if number == errno.ENOENT:
        return "the loader that it names does not exist: it was built for another system" if head else None
    if number != errno.ENOEXEC:
        return None
    if head.startswith(_BYTE_ORDER_MARK + b"#!"):
        return "a byte order mark (UTF-8 BOM) is before its #!: save it without one"
    if head.startswith(b"\x7fELF"):
        return "it was built for another architecture, or is damaged"
    return "it is neither a program nor a script that begins with #!" if head else "it is empty"


def _describe_interpreter(line: bytes, number: int) -> str | None:
    interpreter = line.replace(b"\t", b" ").split(b" ")[0]
    name = interpreter.decode(errors="replace")
    if number == errno.ENOEXEC:
        return "its #! line names no interpreter" if not name.strip() else f"its interpreter {name} is not a program"
    if number == errno.ENOENT and name.endswith("\r"):
        return f"its lines end in CRLF, so its interpreter is {name.rstrip()}\\r, which does not exist: use dos2unix"
    if number == errno.ENOENT:
        return f"its interpreter {name} does not exist"
    return None if os.access(interpreter, os.X_OK) else f"its interpreter {name} may not be executed"
