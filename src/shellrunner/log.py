"""Structured logging: one line for each event on standard error, JSON or text, with a level prefix for journald.

Configured by the command line; every other module uses `logging.getLogger("shellrunner.<package>")` and
`log.info("job accepted", extra={"job": 12})`, or `info` here for a line about every job. Must not know what the
events mean.

A line that something outside can repeat at any rate names itself: `extra={"repeats": "not ready", …}`. At most one a
minute is written, and then how many were not. The same applies to all lines of libraries.
"""

import errno
import logging
import os
import select
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from json import JSONEncoder
from json.encoder import encode_basestring as _text
from typing import Any, Final

from pydantic_core import PydanticSerializationError, to_json

from shellrunner import control_characters
from shellrunner.clock import format_rfc3339, now_ms

# sd-daemon(3): journald reads a level at the beginning of each line, and removes it.
_SYSLOG_PREFIXES: Final = (
    (logging.CRITICAL, "<2>"),
    (logging.ERROR, "<3>"),
    (logging.WARNING, "<4>"),
    (logging.INFO, "<6>"),
)
AUDIT: Final = "shellrunner.audit"  # the logger of the audit log's lines
_DEBUG_PREFIX: Final = "<7>"
STDERR: Final = 2
_NAMES: Final = {level: name.lower() for name, level in logging.getLevelNamesMapping().items()}

_DIM: Final = "2"
# Details of an event that the log has for programs and audits, and that would fill the screen of a person.
_FOR_PROGRAMS: Final = frozenset({"request", "from", "form", "command_bytes", "command_sha256", "cwd", "env"})
_TEXT_COLORS: Final = ((logging.ERROR, "31"), (logging.WARNING, "33"))  # red, yellow

# A record's common attributes come first in its dict; those after them are the event's own (`extra=`).
_COMMON: Final = len(logging.makeLogRecord({}).__dict__)
_REMOVED: Final = ("message", "asctime", "repeats")  # of other handlers' formatters, and for `_Repeats` only

_REPEAT_INTERVAL: Final = 60.0  # seconds between two lines that repeat each other
_MAX_REPEATED: Final = 1000  # different ones that are remembered
_OWN_LOGGERS: Final = "shellrunner"


def _encode(details: Mapping[str, Any]) -> str:
    try:
        return to_json(details, fallback=str, inf_nan_mode="constants").decode()
    except PydanticSerializationError:  # a lone surrogate, for example
        return JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode(details)


def configure(level: str, fd: int = STDERR, style: str = "json") -> None:
    """Send all logging to `fd`: our own from `level` up, that of libraries from warning up.

    The `style` is "json", "text" for people, or "auto": text on a terminal, of which one line is one line there, and
    which leaves out what only programs need. Libraries never log more, because at
    debug aiosqlite logs the values in each statement, which may be secrets.
    """
    is_brief = style == "auto" and os.isatty(fd)
    handler = JsonLinesHandler(fd, is_text=style == "text" or is_brief, is_brief=is_brief)
    logging.basicConfig(
        level=max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]), handlers=[handler], force=True
    )
    logging.getLogger("shellrunner").setLevel(level.upper())
    logging.getLogger("aiohttp.access").disabled = True
    logging.captureWarnings(capture=True)
    # From "Optimization" in the logging how-to: finding the caller's line is the most expensive part of a call.
    logging._srcfile = None  # noqa: SLF001  as the how-to says
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def handler(fd: int = STDERR) -> "JsonLinesHandler":
    """Return the log's own handler for this descriptor, or a new one.

    Two handlers on one descriptor would interleave their lines.
    """
    handlers = (each for each in logging.getLogger().handlers if isinstance(each, JsonLinesHandler) and each.fd == fd)
    return next(handlers, None) or JsonLinesHandler(fd)


def info(logger: logging.Logger, event: str, details: Mapping[str, Any]) -> None:
    """Log an event at level info, as `logger.info(event, extra=details)` does, for a third of its cost.

    For lines of every job. Without a record of `logging`, which only another handler than ours would need.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    handlers = logging.root.handlers
    if len(handlers) == 1 and isinstance(ours := handlers[0], JsonLinesHandler):
        ours.log(logging.INFO, event, logger.name, details)
    else:
        logger.info(event, extra=details)


def format_line(level: int, event: str, logger: str, details: Mapping[str, Any]) -> str:
    """Return an event as one line of JSON."""
    rest = f",{_encode(details)[1:]}\n" if details else "}\n"
    line = f'{{"time":"{format_rfc3339(now_ms())}",{_about(level, event, logger)}{rest}'
    return control_characters.escape_json(line)  # the log may be read on a terminal


def format_text(
    level: int, event: str, details: Mapping[str, Any], *, is_colored: bool, width: int | None = None
) -> str:
    """Return an event as one line for people: the time of day, the event, and its details as name=value.

    With a `width`, an ordinary event is not wider than that, and without details that only programs need.
    """
    is_brief = width is not None and level <= logging.INFO
    if is_brief:
        details = {name: value for name, value in details.items() if name not in _FOR_PROGRAMS}
    values = " ".join(f"{name}={_plain(value)}" for name, value in details.items() if value is not None)
    word = "" if level == logging.INFO else f"{_NAMES.get(level, str(level))}: "
    moment = time.strftime("%H:%M:%S", time.localtime(now_ms() / 1000))
    if width is not None and is_brief:
        values = _shortened(values, width - len(moment) - len(event) - 2)
    color = next((color for least, color in _TEXT_COLORS if level >= least), "")
    texts = ((moment, _DIM), (control_characters.escape(f"{word}{event}"), color), (values, _DIM))
    return " ".join(_styled(text, style if is_colored else "") for text, style in texts if text) + "\n"


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: max(width - 1, 0)]}…"


def _plain(value: Any) -> str:
    match value:
        case bool():
            text = "yes" if value else "no"
        case float():
            text = f"{value:.3f}"
        case list() | tuple():
            text = ",".join(map(str, value))
        case _:
            text = str(value)
    shown = control_characters.escape(text)
    return f'"{shown}"' if " " in shown else shown


def _styled(text: str, style: str) -> str:
    return f"\x1b[{style}m{text}\x1b[0m" if style else text


def _shows_colors(fd: int) -> bool:
    # no-color.org: disabled unless empty
    return os.isatty(fd) and os.environ.get("TERM", "dumb") != "dumb" and not os.environ.get("NO_COLOR")


def _terminal_columns(fd: int) -> int | None:
    """Return the number of columns of a terminal; None where it is not known."""
    try:
        return os.get_terminal_size(fd).columns or None
    except OSError:  # it was closed
        return None


@lru_cache(256)
def _about(level: int, event: str, logger: str) -> str:
    """Return the members that are the same in every line about such an event; cached, because they are few."""
    name = _NAMES.get(level) or logging.getLevelName(level).lower()
    return f'"level":"{name}","event":{_text(event)},"logger":{_text(logger)}'


class JsonLinesHandler(logging.Handler):
    """Writes each record as one line, at once, without ever blocking: a line that does not fit now is dropped.

    A log whose reader has stopped or exited must not stop the service. The number of dropped lines is logged as soon
    as a line fits again.
    """

    def __init__(self, fd: int, *, is_text: bool = False, is_brief: bool = False) -> None:
        """Write to `fd`, which is not closed here; with `is_text` lines for people instead of JSON.

        With `is_brief`, for a terminal, they are shortened to its width.
        """
        super().__init__()
        self.fd = fd
        self._is_brief = is_brief
        self._is_text, self._is_colored = is_text, is_text and _shows_colors(fd)
        self._journal = is_journal(fd)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._repeats = _Repeats()
        self._dropped = 0
        self._is_cut = False  # whether the last line was written in part
        self._has_failed = False  # whether the last line could not be written

    def write(self, level: int, event: str, logger: str, details: Mapping[str, Any]) -> bool:
        """Write a line; return whether it was written as a whole."""
        line = self._line(level, event, logger, details).encode(errors="backslashreplace")
        self.acquire()  # other threads log too; `emit` is called with the lock held
        try:
            return self._write(line)
        finally:
            self.release()

    def log(self, level: int, event: str, logger: str, details: Mapping[str, Any]) -> None:
        """Write a line that cannot repeat another, or count it as dropped."""
        line = self._line(level, event, logger, details)
        self.acquire()
        try:
            self._write_or_drop(self._ended_repeats() + line)
        finally:
            self.release()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or count it as dropped or as repeated."""
        ended = self._ended_repeats()
        if (key := _repetition_key(record)) and self._repeats.is_repeated(key):
            if ended:
                self._write(ended.encode())
            return
        try:
            line = self._line(record.levelno, record.getMessage(), record.name, _details(record))
        except Exception as error:  # noqa: BLE001  a faulty log call must not fail the operation that it logs
            line = self._line(logging.ERROR, "faulty log line", record.name, {"error": repr(error)})
        self._write_or_drop(ended + line)

    def _ended_repeats(self) -> str:
        """Return a line for each event whose minute is over, about how often it was repeated."""
        if not self._repeats:
            return ""
        return "".join(
            [
                self._line(
                    logging.WARNING, "repeated log lines suppressed", __name__, {"repeated": event, "lines": count}
                )
                for event, count in self._repeats.take_ended()
            ]
        )

    def _write_or_drop(self, line: str) -> None:
        if self._dropped:
            line = self._line(logging.WARNING, "log lines dropped", __name__, {"lines": self._dropped}) + line
        if self._write(line.encode(errors="backslashreplace")):
            self._dropped = 0
        else:
            self._dropped += 1

    def _line(self, level: int, event: str, logger: str, details: Mapping[str, Any]) -> str:
        prefix = _prefix(level) if self._journal else ""
        if self._is_text:
            width = _terminal_columns(self.fd) if self._is_brief else None
            return prefix + format_text(level, event, details, is_colored=self._is_colored, width=width)
        return prefix + format_line(level, event, logger, details)

    def _write(self, line: bytes) -> bool:
        if self._is_cut:  # or this line would be appended to the previous one, and neither would be readable
            line = b"\n" + line
        at = 0
        try:
            # pipe(7): a pipe that polls as writable accepts PIPE_BUF bytes without blocking.
            while at < len(line) and self._poll.poll(0):
                at += os.write(self.fd, line[at : at + select.PIPE_BUF])
        except OSError:  # EPIPE; EIO: the terminal was closed; ENOSPC: a file, which may have taken a part
            pass
        is_whole = at == len(line)
        if at:
            self._is_cut = not is_whole
        self._has_failed = not is_whole
        return is_whole

    def failure(self) -> str | None:
        """Return why a line could not be written now; None if it could, as far as that shows without writing one."""
        if self._has_failed:  # the only way to know better
            log = logging.getLogger(__name__)
            self.handle(log.makeRecord(log.name, logging.WARNING, "", 0, "the log could not be written", (), None))
            return "the last line could not be written" if self._has_failed else None
        try:
            if any(events & ~select.POLLOUT for _, events in self._poll.poll(0)) or not self._poll.poll(0):
                return "its reader has stopped, or is gone"
            os.write(self.fd, b"")  # /dev/full refuses even that
            if stat.S_ISREG(os.fstat(self.fd).st_mode) and os.fstatvfs(self.fd).f_bavail == 0:
                return os.strerror(errno.ENOSPC)
        except OSError as error:
            return error.strerror
        return None


class _Repeats:
    """The lines that were written less than a minute ago, and how often each has been suppressed since."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._suppressed: dict[str, int] = {}
        self._until: dict[str, float] = {}  # in the order in which they were written

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._until)

    def is_repeated(self, key: str) -> bool:
        """Return whether such a line was written less than a minute ago; count it as suppressed or as written."""
        if key in self._until:
            self._suppressed[key] = self._suppressed.get(key, 0) + 1
            return True
        if len(self._until) < _MAX_REPEATED:
            self._until[key] = self._clock() + _REPEAT_INTERVAL
        return False

    def take_ended(self) -> Iterator[tuple[str, int]]:
        """Yield those whose minute is over and that were suppressed, with the number of lines; forget them."""
        now = self._clock()
        while self._until and next(iter(self._until.values())) <= now:
            key = next(iter(self._until))
            del self._until[key]
            if count := self._suppressed.pop(key, 0):
                yield key, count


def _repetition_key(record: logging.LogRecord) -> str | None:
    """Return what identifies a line that may be repeated; None if each is to be written."""
    if record.name.partition(".")[0] == _OWN_LOGGERS:
        return record.__dict__.get("repeats")
    kind = type(record.exc_info[1]).__name__ if record.exc_info and record.exc_info[1] else ""
    return " ".join(filter(None, (record.name, str(record.msg).partition("\n")[0], kind)))


_exceptions = logging.Formatter()


def _details(record: logging.LogRecord) -> dict[str, Any]:
    details = dict(islice(record.__dict__.items(), _COMMON, None))
    for name in _REMOVED:
        details.pop(name, None)
    if record.exc_info and record.exc_info[1]:
        details["exception"] = _exceptions.formatException(record.exc_info)
    return details


def _prefix(level: int) -> str:
    return next((prefix for least, prefix in _SYSLOG_PREFIXES if level >= least), _DEBUG_PREFIX)


def is_journal(fd: int) -> bool:
    """Return whether a descriptor is a stream to systemd's journal."""
    # systemd.exec(5), $JOURNAL_STREAM: device and inode match unless the descriptor was redirected since.
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
