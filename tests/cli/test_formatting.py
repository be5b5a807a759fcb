"""Text for users: durations both ways, sizes, endings, and text that cannot control a terminal."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shellrunner import control_characters
from shellrunner.cli.ui import formatting


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"), (0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min"),
        (61, "1 min 1 s"), (3599.6, "1 h"), (3660, "1 h 1 min"), (86_400, "1 d"), (200_000, "2 d 7 h"), (-3, "0.0 s"),
    ],
)  # fmt: skip
def test_a_duration_has_one_or_two_units(seconds: float | int, text: str) -> None:
    """The largest unit that fits, and the next smaller one unless its number is 0."""
    assert formatting.format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1.5s", 1.5), ("250ms", 0.25), ("5m", 300), ("2min", 120), ("1h30m", 5400), ("1d2h3m4s", 93_784)],
)
def test_a_duration_is_read_as_people_write_it(text: str, seconds: float | int) -> None:
    """A number without a unit is in seconds; several units are added."""
    assert formatting.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1", "1 h", "1x", "1e3", "٣", "nan", "1h30m!"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    """Anything but numbers with known units raises ValueError."""
    with pytest.raises(ValueError, match=r"^invalid duration"):
        formatting.parse_duration(text)


@pytest.mark.parametrize("text", ["9" * 400, "10000000001", "1" + "0" * 5000 + "d"])
def test_a_duration_that_no_date_could_have_is_refused(text: str) -> None:
    """Neither infinity nor a number of years that overflows gets any further."""
    with pytest.raises(ValueError, match=r"is longer than 317 years$"):
        formatting.parse_duration(text)


@given(st.text(st.characters()))
def test_what_is_shown_is_one_line_that_no_terminal_obeys(text: Any) -> None:
    """No control character, direction override or lone surrogate is left, and letters are unchanged."""
    shown = control_characters.escape(text)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", shown)
    assert shown.splitlines() in ([shown], [])
    if text.isprintable() and text.isalpha():
        assert shown == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**50, "1024.0 TiB")])
def test_a_size_has_one_unit(count: int, text: str) -> None:
    """Units are powers of 1024, with one decimal above bytes."""
    assert formatting.format_size(count) == text
