"""The outermost frame of the command line: whatever goes wrong in a verb becomes a message and an exit code.

Streams that are full, closed or missing, a working directory that has been removed, Ctrl-C. Imports little by itself,
because `--version` needs no more. Must not know any verb.
"""

import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import click

_FAILED, _USAGE_ERROR, _INTERRUPTED, _OUTPUT_CLOSED = 1, 2, 128 + signal.SIGINT, 128 + signal.SIGPIPE
_CLOSED_ERRORS = (errno.EPIPE, errno.EIO)  # the reader has exited, or the terminal was closed


def exit_code_of(call: Callable[[], Any], error_code: int | None) -> int:
    """Return the exit code of `call`, and report why it failed.

    `error_code` is that of every failure, for verbs whose other codes are those of a job; by default 1, or 2 for
    wrong arguments or configuration.
    """
    try:
        code = _call(call)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception as error:  # noqa: BLE001  the outermost frame
        if isinstance(error, OSError) and error.filename is None and error.errno in _CLOSED_ERRORS:
            return _OUTPUT_CLOSED
        _report(_describe(error))
        return error_code or _usual_code(error)
    return code


def _call(call: Callable[[], Any]) -> int:
    try:
        code = call()
    except SystemExit as ended:
        code = ended.code
    return code if isinstance(code, int) else 0


def _usual_code(error: Exception) -> int:
    from shellrunner.errors import ConfigError  # noqa: PLC0415  see the module

    return _USAGE_ERROR if isinstance(error, ConfigError) else _FAILED


def _describe(error: Exception) -> str:
    from shellrunner.errors import ShellrunnerError  # noqa: PLC0415  see the module

    if isinstance(error, ShellrunnerError):
        return error.detail
    if not isinstance(error, OSError):
        import traceback  # noqa: PLC0415  see the module

        return traceback.format_exc().rstrip()  # a bug
    reason = error.strerror or str(error)
    if error.filename is not None:
        return f"{error.filename}: {reason}"
    try:
        os.getcwd()
    except OSError:
        return "the current directory does not exist any more: change to another one"
    return f"cannot write to standard output: {reason}"


def _report(message: str) -> None:
    from shellrunner import control_characters  # noqa: PLC0415  see the module

    with contextlib.suppress(OSError):  # there is nowhere to report that
        sys.stderr.write(f"{control_characters.escape_lines(message)}\n")
        sys.stderr.flush()


def show(error: "click.ClickException") -> None:
    """Write the message of a wrong call, which may quote its arguments, to standard error."""
    text = io.StringIO()
    error.show(text)
    _report(text.getvalue().removesuffix("\n"))


def end(code: int) -> None:
    """Exit with this code, whatever the streams' buffers and Ctrl-C do to an exit of Python."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # what is in its buffer could not be written, and must not be tried again
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
    sys.exit(code)


def open_standard_streams() -> None:
    """Replace standard streams that are closed: by an empty input, an output that fails, and a log to nowhere.

    The next file to be opened would get their numbers, and log lines would go into the history.
    """
    for fd, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, flags)  # open(2): the lowest number that is free
    # Python has None where there was no descriptor. Output that nobody gets is an error (EBADF).
    sys.stdin = sys.stdin or _text(0, "r")
    sys.stdout = sys.stdout or _text(1, "w")
    sys.stderr = sys.stderr or _text(2, "w")


def _text(fd: int, mode: str) -> io.TextIOWrapper:
    binary = io.FileIO(fd, mode, closefd=False)
    buffered: Any = io.BufferedReader(binary) if mode == "r" else io.BufferedWriter(binary)
    return io.TextIOWrapper(buffered, "utf-8", "replace", line_buffering=fd == 2)
