"""Text for users: durations, ages, times, sizes, endings, and text that may contain anything.

Pure functions. Must not know where the text is written.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from shellrunner import control_characters
from shellrunner.clock import now_ms, parse_rfc3339
from shellrunner.model.endings import ENDINGS

_DURATION_UNITS: Final = (("d", 86_400), ("h", 3_600), ("min", 60))
_SECONDS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0}
_MAX_DURATION: Final = 1e10  # seconds, 317 years: from now on it ends in a year that a date can have
_DURATION_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|min|s|m|h|d|)", re.ASCII)

_STATE_TEXTS: Final = {"waiting": "is waiting", "queued": "is queued", "running": "is running"}
_MAX_NAMED: Final = 5  # processes
_MAX_COMMAND: Final = 60  # characters of their command lines


def format_duration(seconds: float, *, whole: bool = False) -> str:
    """Format a duration with one or two units: 0.4 s (0 s if `whole`), 12 s, 3 min 5 s, 2 d 4 h."""
    if seconds < 9.95 and not whole:
        return f"{max(0.0, seconds):.1f} s"
    rounded = int(seconds + 0.5)
    for (unit, size), (smaller_unit, smaller_size) in zip(
        _DURATION_UNITS, (*_DURATION_UNITS[1:], ("s", 1)), strict=True
    ):
        if rounded >= size:
            rest = rounded % size // smaller_size
            return f"{rounded // size} {unit}" + (f" {rest} {smaller_unit}" if rest else "")
    return f"{rounded} s"


def format_age(time: str) -> str:
    """Format how long ago an RFC 3339 time was: 12 s ago, 3 d 4 h ago.

    As a duration is formatted, so that nothing seems to have run for longer than it has existed.
    """
    return f"{format_duration(seconds_between(time))} ago"


def format_moment(time: str) -> str:
    """Format an RFC 3339 time in the local time zone, and how far it is from now."""
    ahead = (parse_rfc3339(time) - now_ms()) / 1000
    distance = f"in {format_duration(ahead)}" if ahead > 0 else format_age(time)
    return f"{format_local_time(time)} ({distance})"


def parse_duration(text: str) -> float:
    """Parse a duration into seconds: 90, 1.5s, 5m, 1h30m.

    Raises:
        ValueError: `text` is not a duration.
    """
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"invalid duration {text!r}: expected seconds or units, such as 90, 1.5s, 5m or 1h30m")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if seconds > _MAX_DURATION:
        raise ValueError(f"the duration {text!r} is longer than 317 years")
    return seconds


def seconds_between(start: str, end: str | None = None) -> float:
    """Return the seconds between two RFC 3339 times, or until now; at least 0, because clocks differ."""
    end_ms = now_ms() if end is None else parse_rfc3339(end)
    return max(0.0, (end_ms - parse_rfc3339(start)) / 1000)


def format_local_time(time: str) -> str:
    """Format an RFC 3339 time in the local time zone: 2026-11-24 05:36:30."""
    moment = datetime.fromtimestamp(parse_rfc3339(time) // 1000, UTC)
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def format_size(count: int) -> str:
    """Format a number of bytes with one unit, a power of 1024: 0 B, 12.5 KiB."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def describe_leftovers(result: Mapping[str, Any]) -> str | None:
    """Return the processes that a command left behind, in words, or None if there were none."""
    count, processes = result.get("leftovers_count"), result.get("leftovers")  # neither is known to an older server
    if not count or processes is None:
        return None
    named = ((control_characters.escape(one["command"]), one["pid"]) for one in processes[:_MAX_NAMED])
    names = [f"{_shorten(command)} (pid {pid})" for command, pid in named]
    others = f" and {count - len(names)} more" if count > len(names) else ""
    noun, verb = ("process", "was") if count == 1 else ("processes", "were")
    return f"{count} {noun} that it left behind {verb} ended: {', '.join(names)}{others}"


def _shorten(command: str) -> str:
    return command if len(command) <= _MAX_COMMAND else f"{command[: _MAX_COMMAND - 1]}…"


def count_of(count: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: 1 job, 2 jobs."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def describe_pending(pending: Mapping[str, Any]) -> str:
    """Return why a job does not run yet, in words."""
    return str(pending.get("detail") or pending["reason"].replace("_", " "))


def describe_state(status: Mapping[str, Any]) -> str:
    """Return a predicate for a job that is not done, with the reason why it does not run yet."""
    if unreachable := status.get("unreachable"):  # an older server knows neither
        return describe_unreachable(unreachable)
    state = _STATE_TEXTS.get(status["state"], "is queued")
    pending = status.get("pending")
    return f"{state}: {describe_pending(pending)}" if pending else state


def describe_unreachable(unreachable: Mapping[str, Any]) -> str:
    """Return a predicate for a job whose host is not reachable."""
    host, since = control_characters.escape(unreachable["host"]), format_local_time(unreachable["since"])
    return f"was running on host {host}, which has not been reachable since {since}"


def describe_found(found: Mapping[str, Any]) -> str:
    """Return what became known of a lost job when its host returned."""
    return f"its host has returned and reports that it {_ending(found)} at {format_local_time(found['completed'])}"


def describe_ending(job_id: int, end: Mapping[str, Any], detail: str | None = None) -> str:
    """Return a sentence about the end of a job; `end` has `ending`, `exit_code` and `signal`."""
    return f"job {job_id} {_ending(end)}" + (f": {control_characters.escape(detail)}" if detail else "")


def describe_attempt(end: Mapping[str, Any]) -> str:
    """Return a sentence about the end of an attempt that another one follows; `end` is the data of its event."""
    time = format_local_time(end["completed"])
    return f"attempt {end['attempt']} of {end['max_attempts']} {_ending(end)}, {time}"


def _ending(end: Mapping[str, Any]) -> str:
    info = ENDINGS.get(end["ending"])  # None: an ending of a newer server
    return info.sentence.format(**end) if info else f"ended: {end['ending']}"
