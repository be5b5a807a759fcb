"""What happened, as one line of JSON for each event on standard error; journald reads the level before it.

Owned by the command line, which sets it up; everybody else says `logging.getLogger("shellrunner.<room>")` and
`log.info("job accepted", extra={"job": 12})`. Must not know what the events mean.
"""

import contextlib
import logging
import os
import select
from collections.abc import Mapping
from itertools import islice
from json import JSONEncoder
from json.encoder import encode_basestring as _text
from typing import Any, Final

from shellrunner.clock import format_rfc3339, now_ms

# sd-daemon(3): journald takes a level from the beginning of each line and removes it.
_SYSLOG: Final = ((logging.CRITICAL, "<2>"), (logging.ERROR, "<3>"), (logging.WARNING, "<4>"), (logging.INFO, "<6>"))
_AUDIT: Final = "shellrunner.audit"
_DEBUG: Final = "<7>"
_NAMES: Final = {level: name.lower() for name, level in logging.getLevelNamesMapping().items()}

# What every record has comes first in it; what is left over behind that is the event's own (`extra=`).
_COMMON: Final = len(logging.makeLogRecord({}).__dict__)
_FORMATTED: Final = ("message", "asctime")  # what formatters of other handlers leave in a record

_encode = JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode


def set_up(level: str, fd: int = 2) -> None:
    """Send all logging to `fd`: what is ours from `level` on, what is others' from warning on.

    Others are never asked for more, because at debug aiosqlite tells the values in each statement, and those may be
    secrets.
    """
    handler = Lines(fd)
    logging.basicConfig(
        level=max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]), handlers=[handler], force=True
    )
    logging.getLogger("shellrunner").setLevel(level.upper())
    logging.getLogger("aiohttp.access").disabled = True
    logging.captureWarnings(capture=True)
    # The "Optimization" part of the logging how-to: who called from where is the dearest thing to find out.
    logging._srcfile = None  # noqa: SLF001  # the how-to says to
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def audit_sink(fd: int = 2) -> "LogAuditSink":
    """Return what takes the lines of the audit: the same log, at any level, but it says whether it took them."""
    # The very same, where there is one: who else writes there must neither cut into its lines nor take its room.
    handlers = (each for each in logging.getLogger().handlers if isinstance(each, Lines) and each.fd == fd)
    return LogAuditSink(next(handlers, None) or Lines(fd))


class Lines(logging.Handler):
    """Writes each record as one line, at once, and never waits: a line that cannot be taken now is dropped.

    A log whose reader has stopped or gone must not stop the service. How many lines were dropped is said as soon as
    there is room again.
    """

    def __init__(self, fd: int) -> None:
        """Write to `fd`, which stays the caller's."""
        super().__init__()
        self.fd = fd
        self._journal = _is_journal(fd)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._dropped = 0
        self._is_cut = False  # whether the line that was written last lacks its end

    def write(self, level: int, event: str, logger: str, details: Mapping[str, Any]) -> bool:
        """Write a line; false if it cannot be taken now."""
        line = self._line(level, event, logger, details).encode(errors="backslashreplace")
        self.acquire()  # other threads log too; `emit` is called with it
        try:
            return self._write(line)
        finally:
            self.release()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or count it as dropped."""
        try:
            line = self._line(record.levelno, record.getMessage(), record.name, _details(record))
        except Exception as error:  # noqa: BLE001  # a border: a faulty line must not hurt what it tells about
            line = self._line(logging.ERROR, "faulty log line", record.name, {"error": repr(error)})
        if self._dropped:
            line = self._line(logging.WARNING, "log lines dropped", __name__, {"lines": self._dropped}) + line
        if self._write(line.encode(errors="backslashreplace")):
            self._dropped = 0
        else:
            self._dropped += 1

    def _line(self, level: int, event: str, logger: str, details: Mapping[str, Any]) -> str:
        # Put together by hand: a call of the encoder for all of it costs more than everything else here.
        rest = "".join(f",{_text(key)}:{_json(value)}" for key, value in details.items())
        prefix = _prefix(level) if self._journal else ""
        name = _NAMES.get(level) or logging.getLevelName(level).lower()
        now = format_rfc3339(now_ms())
        return f'{prefix}{{"time":"{now}","level":"{name}","event":{_text(event)},"logger":{_text(logger)}{rest}}}\n'

    def _write(self, line: bytes) -> bool:
        # Whoever came before may have left half a line: ours would be the rest of it, and nobody could read either.
        line, at = (b"\n" + line if self._is_cut else line), 0
        # Gone: EPIPE, EIO of a terminal that was closed, ENOSPC of a file, which takes a part first.
        with contextlib.suppress(OSError):
            # pipe(7): a pipe that polls as writable takes PIPE_BUF bytes without waiting.
            while at < len(line) and self._poll.poll(0):
                at += os.write(self.fd, line[at : at + select.PIPE_BUF])
        if at:
            self._is_cut = at < len(line)
        return at == len(line)


class LogAuditSink:
    """Lines that are written, or it is told that they were not: whoever hears that does not go on."""

    def __init__(self, lines: Lines) -> None:
        """Write to where these go."""
        self._lines = lines

    def __call__(self, event: str, details: Mapping[str, Any]) -> bool:
        """Write a line of the audit; false if there is no room for it now, or nobody to take it."""
        return self._lines.write(logging.INFO, event, _AUDIT, details)


_exceptions = logging.Formatter()


def _details(record: logging.LogRecord) -> dict[str, Any]:
    details = dict(islice(record.__dict__.items(), _COMMON, None))
    for name in _FORMATTED:
        details.pop(name, None)
    if record.exc_info and record.exc_info[1]:
        details["exception"] = _exceptions.formatException(record.exc_info)
    return details


def _json(value: Any) -> str:
    if type(value) is int:
        return str(value)
    return _text(value) if type(value) is str else _encode(value)


def _prefix(level: int) -> str:
    return next((prefix for least, prefix in _SYSLOG if level >= least), _DEBUG)


def _is_journal(fd: int) -> bool:
    # systemd.exec(5), $JOURNAL_STREAM: only if device and inode match has the descriptor not been redirected since.
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
