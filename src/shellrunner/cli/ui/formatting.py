"""How things are said to people: times, spans, sizes, endings, and text that may hold anything.

Pure functions. Must not know where they are written.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from shellrunner.model.endings import ENDINGS

_SPANS: Final = (("d", 86_400), ("h", 3_600), ("min", 60))
_UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0}
_SPAN: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|min|s|m|h|d|)", re.ASCII)
# C0, DEL and C1, what turns the direction of writing, and what ends a line elsewhere: a command's text is only text.
_UNSEEN: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SHORT: Final = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def span(seconds: float, *, whole: bool = False) -> str:
    """A duration, in one or two units: 0.4 s (but as a `whole` 0 s), 12 s, 3 min 5 s, 2 d 4 h."""
    if seconds < 9.95 and not whole:
        return f"{max(0.0, seconds):.1f} s"
    rounded = int(seconds + 0.5)
    for (unit, size), (smaller, less) in zip(_SPANS, (*_SPANS[1:], ("s", 1)), strict=True):
        if rounded >= size:
            rest = rounded % size // less
            return f"{rounded // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{rounded} s"


def ago(instant: str) -> str:
    """How long ago that was, in one unit: 12 s ago, 3 d ago."""
    passed = since(instant)
    unit, size = next(((unit, size) for unit, size in _SPANS if passed >= size), ("s", 1))
    return f"{int(passed) // size} {unit} ago"


def seconds(text: str) -> float:
    """Read a duration: 90, 1.5s, 5m, 1h30m.

    Raises:
        ValueError: it is none.
    """
    parts = _SPAN.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is no duration: 90, 1.5s, 5m, 1h30m")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def moment(instant: str) -> datetime:
    """A time of the API's."""
    return datetime.fromisoformat(instant)


def since(instant: str, until: str | None = None) -> float:
    """Seconds from one time to another, or to now; never less than none, whatever the clocks say."""
    end = datetime.now(UTC) if until is None else moment(until)
    return max(0.0, (end - moment(instant)).total_seconds())


def local(instant: str) -> str:
    """A time where we are."""
    return moment(instant).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def size(count: int) -> str:
    """So many bytes: 0 B, 12.5 KiB."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def visible(text: str) -> str:
    """The same on one line, with nothing in it that a terminal would obey."""
    return _UNSEEN.sub(lambda found: _SHORT.get(found[0]) or f"\\u{ord(found[0]):04x}", text)


def ended(job_id: int, end: Mapping[str, Any], detail: str | None = None) -> str:
    """How a job ended, in a sentence; `end` has `ending`, `exit_code` and `signal`."""
    info = ENDINGS.get(end["ending"])  # None: a newer server's
    how = info.sentence.format(**end) if info else f"ended: {end['ending']}"
    return f"job {job_id} {how}" + (f": {visible(detail)}" if detail else "")
