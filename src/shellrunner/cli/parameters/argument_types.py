"""Durations, points in time, sizes and sets of words as arguments: what a person types becomes what the API takes.

Must not know which option has which type.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from signal import Signals
from typing import Any, Final

import click
from click.shell_completion import CompletionItem
from click.types import StringParamType

from shellrunner import ascii_text
from shellrunner.cli.ui import formatting
from shellrunner.clock import format_rfc3339, now_ms, parse_rfc3339

_CLOCK: Final = re.compile(r"(?:(tomorrow|today)[ T]?)?(?:([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?)?", re.ASCII)
_DATE: Final = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})(?:[ T]([0-9]{2}):([0-9]{2})(?::([0-9]{2}))?)?", re.ASCII)
_SIZE: Final = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)([kmgt]?)(?:i?b)?", re.ASCII)
_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_TERMINAL_SIZE: Final = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", re.ASCII)


class Duration(StringParamType):
    """Seconds, from 90, 1.5s, 5m or 1h30m."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number of seconds."""
        try:
            return formatting.parse_duration(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Moment(StringParamType):
    """A time with its zone, or a date or time of day of the zone of this machine; the result is RFC 3339."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the time in UTC."""
        try:
            return parse_moment(value)
        except (ValueError, OverflowError):
            expected = "03:00, 'tomorrow 03:00', 2026-12-24, '2026-12-24 03:00' or 2026-12-24T03:00:00Z"
            self.fail(f"invalid time {value!r}: expected {expected}", param, ctx)


def parse_moment(text: str) -> str:
    """Return the time that a person means as RFC 3339: a time of day is the next one.

    Raises:
        ValueError: `text` is not a time.
    """
    try:
        return format_rfc3339(parse_rfc3339(text))
    except ValueError:
        return format_rfc3339(round(_parse_local(ascii_text.lower(text)).timestamp() * 1000))


def _parse_local(text: str) -> datetime:
    now = datetime.fromtimestamp(now_ms() / 1000)  # noqa: DTZ006  the zone of this machine is what is meant
    if date := _DATE.fullmatch(ascii_text.upper(text)):
        return datetime(*(int(part or 0) for part in date.groups()))  # type: ignore[arg-type]  # noqa: DTZ001
    clock = _CLOCK.fullmatch(text)
    if not text or clock is None:
        raise ValueError(text)
    day, *parts = clock.groups()
    hour, minute, second = (int(part or 0) for part in parts)
    moment = now.replace(hour=hour, minute=minute, second=second, microsecond=0)
    is_over = day is None and moment <= now
    return moment + timedelta(days=1) if is_over or day == "tomorrow" else moment


def parse_size(text: str) -> int:
    """Return the number of bytes: 100, 512K, 1.5G, 10MiB; the units are powers of 1024.

    Raises:
        ValueError: `text` is not a size.
    """
    size = _SIZE.fullmatch(ascii_text.lower(text))
    if size is None:
        raise ValueError(f"invalid size {text!r}: expected bytes or a unit, such as 100, 512K or 1.5G")
    unit = 1024 ** _POWERS[size[2]]
    return int(float(size[1]) * unit) if "." in size[1] else int(size[1]) * unit


class RowsAndColumns(StringParamType):
    """Rows and columns, from 50x132."""

    name = "rowsxcolumns"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the members of `tty`."""
        size = _TERMINAL_SIZE.fullmatch(value)
        if size is None:
            self.fail(f"invalid size {value!r}: expected rows and columns, such as 24x80", param, ctx)
        return {"rows": int(size[1]), "columns": int(size[2])}


class Words(StringParamType):
    """One or more of a few words, separated by commas."""

    name = "words"

    def __init__(self, words: Iterable[str]) -> None:
        self._words = list(words)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the words as a list."""
        words = value.split(",") if isinstance(value, str) else value
        for word in words:
            if word not in self._words:
                self.fail(f"{word!r} is not one of {', '.join(self._words)}", param, ctx)
        return words

    def shell_complete(self, _ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return what may follow the last comma."""
        before, comma, begun = incomplete.rpartition(",")
        return [CompletionItem(f"{before}{comma}{word}") for word in self._words if word.startswith(begun)]


class Pair(StringParamType):
    """NAME=VALUE, whose name may be one of a few, each with a parser of its value."""

    name = "name=value"

    def __init__(self, parsers: Mapping[str, Any]) -> None:
        self._parsers = parsers

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the name and the parsed value."""
        if isinstance(value, tuple):
            return value
        name, equals, content = value.partition("=")
        if not equals or name not in self._parsers:
            expected = ", ".join(f"{known}=…" for known in self._parsers)
            self.fail(f"{value!r} is not one of {expected}", param, ctx)
        try:
            return name, self._parsers[name](content)
        except ValueError as error:
            self.fail(f"{name}: {error}", param, ctx)

    def shell_complete(self, _ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names."""
        return [CompletionItem(f"{name}=") for name in self._parsers if name.startswith(incomplete)]


class SignalName(StringParamType):
    """A signal of this system by name or number: HUP, sighup, 1, RTMIN+3."""

    name = "signal"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the name as the API has it: `HUP`, `sighup` and `1` are SIGHUP."""
        if ascii_text.is_decimal(value):
            try:
                return Signals(int(value)).name
            except ValueError:
                self.fail(f"there is no signal with the number {value}", param, ctx)
        name = f"SIG{ascii_text.upper(value).removeprefix('SIG')}"
        if name.partition("+")[0] not in Signals.__members__:
            self.fail(f"there is no signal {value!r}: expected a number or a name such as HUP or USR1", param, ctx)
        return name

    def shell_complete(self, _ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names."""
        names = [signal.name.removeprefix("SIG") for signal in Signals]
        return [CompletionItem(name) for name in names if name.startswith(ascii_text.upper(incomplete))]


DURATION: Final = Duration()
MOMENT: Final = Moment()
TERMINAL_SIZE: Final = RowsAndColumns()
SIGNAL: Final = SignalName()
