"""Times: RFC 3339 in both directions, for every millisecond of the years 1 to 9999."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shellrunner.clock import format_rfc3339, now_ms, parse_rfc3339

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST, LAST = -62_135_596_800_000, 253_402_300_799_999  # the first and the last millisecond of the years 1 to 9999


@pytest.mark.parametrize(
    ("moment", "text"),
    [(0, "1970-01-01T00:00:00.000Z"), (1471620702201, "2016-08-19T15:31:42.201Z"), (999, "1970-01-01T00:00:00.999Z")],
)
def test_a_time_is_written_in_utc_with_exactly_its_milliseconds(moment: int, text: str) -> None:
    """A time is RFC 3339 in UTC with exactly its milliseconds."""
    assert format_rfc3339(moment) == text


@given(st.integers(FIRST, LAST))
def test_a_time_survives_both_directions(moment: int) -> None:
    """What is formatted parses back to the same millisecond, and is what datetime makes of it."""
    text = format_rfc3339(moment)
    assert parse_rfc3339(text) == moment
    assert datetime.fromisoformat(text) == EPOCH + timedelta(milliseconds=moment)


NAIVE = st.datetimes(EPOCH.replace(year=2, tzinfo=None), EPOCH.replace(year=9998, tzinfo=None))


@given(NAIVE, st.integers(-1439, 1439))
def test_any_offset_is_the_same_moment(local: datetime, minutes: int) -> None:
    """An offset is subtracted, and a fraction of a millisecond counts as a whole one."""
    sign, hours, rest = "-" if minutes < 0 else "+", abs(minutes) // 60, abs(minutes) % 60
    moment = parse_rfc3339(f"{local.isoformat()}{sign}{hours:02}:{rest:02}")
    exact = local.replace(tzinfo=UTC) - timedelta(minutes=minutes) - EPOCH
    assert timedelta(0) <= timedelta(milliseconds=moment) - exact < timedelta(milliseconds=1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-24",
        "2026-11-24T15:31:42",
        "2026-11-24 15:31:42Z",
        "2026-11-24T15:31Z",
        "2026-02-30T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "2026-11-24T24:00:00Z",
        "2026-11-24T15:31:42+24:00",
        "２026-11-24T15:31:42Z",
        " 2026-11-24T15:31:42Z",
        "2026-11-24T15:31:42Z\n",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """A date without time, without offset, that does not exist or lies outside the years 1 to 9999 is no time."""
    with pytest.raises(ValueError, match=r"not an RFC 3339 time|outside the years|out of range|must be in|strictly"):
        parse_rfc3339(text)


def test_now_is_the_time() -> None:
    """`now_ms` lies between two readings of another clock."""
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    moment = EPOCH + timedelta(milliseconds=now_ms())
    assert before <= moment <= datetime.now(UTC)
