"""Seen time: whatever the wall clock is set to, ages grow by no more than the time that passed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shellrunner.store.components.seen_time import CONFIRMATION, ClockMark, SeenTime

NOW = 1_800_000_000_000
DAY = 86_400_000
SECOND = 1000


def fresh() -> SeenTime:
    return SeenTime(None, None, "boot", NOW, 0)


@given(st.lists(st.tuples(st.integers(0, 3600 * SECOND), st.integers(-90 * DAY, 90 * DAY)), max_size=20))
def test_c5_ages_never_grow_faster_than_time(steps: list[tuple[int, int]]) -> None:
    """C5: for all jumps at all moments within a day, now() goes on by no more than what passed (and NTP)."""
    seen, wall, boot = fresh(), NOW, 0
    for passed, jump in steps:
        boot, wall = boot + passed, wall + passed + jump
        seen.observe(wall, boot)
        assert seen.now(wall, boot) <= wall
        if boot < CONFIRMATION:
            assert seen.now(wall, boot) <= NOW + boot + 10 * SECOND * (len(steps) + 1)
    assert seen.shift == pytest.approx(sum(jump for _, jump in steps if abs(jump) > 10 * SECOND))


def test_c5_a_clock_that_comes_back_leaves_nothing() -> None:
    """C5: 60 days ahead for 25 s, then right again: the seen time is the wall clock's, and the shifts cancel out."""
    seen = fresh()
    seen.observe(NOW + 5 * SECOND + 60 * DAY, 5 * SECOND)
    assert seen.unconfirmed == 60 * DAY
    assert seen.shift == 60 * DAY
    seen.observe(NOW + 30 * SECOND, 30 * SECOND)
    assert (seen.unconfirmed, seen.shift) == (0, 0)
    assert seen.now(NOW + 31 * SECOND, 31 * SECOND) == NOW + 31 * SECOND


def test_c5_a_clock_that_stays_is_believed_after_a_day() -> None:
    """C5: what was corrected for good counts after a day without another jump, also over restarts."""
    seen = fresh()
    wall, boot = NOW + 60 * DAY, 0
    seen.observe(wall, boot)
    for hour in range(1, 25):
        assert seen.unconfirmed == 60 * DAY, f"after {hour - 1} hours"
        boot += DAY // 24
        mark = ClockMark.parse(seen.mark.format())
        seen = SeenTime(mark, None, "boot", wall + boot, boot)
    assert seen.unconfirmed == 0


def test_c5_another_jump_starts_the_day_again() -> None:
    """C5: a clock that is set again and again is not believed."""
    seen, wall, boot = fresh(), NOW, 0
    for _ in range(60):
        wall, boot = wall + DAY, boot + DAY // 2
        seen.observe(wall, boot)
    assert seen.unconfirmed == 30 * DAY


@pytest.mark.parametrize(
    ("off", "unconfirmed"),
    [(600 * SECOND, 0), (30 * DAY, 30 * DAY), (-30 * DAY, -30 * DAY)],
    ids=["ten minutes", "a month", "the clock is behind"],
)
def test_c5_a_host_that_was_off(off: int, unconfirmed: int) -> None:
    """C5: after another boot a short time counts at once, a long one after a day, and a clock behind never."""
    last = ClockMark("before", 10 * DAY, NOW, NOW)
    seen = SeenTime(last, None, "boot", NOW + off, 60 * SECOND)
    assert seen.unconfirmed == unconfirmed
    assert seen.now(NOW + off, 60 * SECOND) == NOW + min(off, 0) if unconfirmed else NOW + off


def test_c5_a_clock_that_was_set_between_two_runs() -> None:
    """C5: within one boot, a jump while the service was down is noticed; an old history begins at its newest job."""
    last = ClockMark("boot", 0, NOW, NOW)
    assert SeenTime(last, None, "boot", NOW + DAY, 0).shift == DAY
    assert SeenTime(last, None, "boot", NOW + DAY, DAY).shift == 0
    assert SeenTime(None, NOW, "boot", NOW + 60 * DAY, 0).unconfirmed == 60 * DAY
    assert SeenTime(None, None, "boot", NOW, 0).unconfirmed == 0


@pytest.mark.parametrize("text", ["", "{}", "3", '{"boot_id": "b", "boot": "x", "wall": 1, "seen": 1}', "[]"])
def test_a_damaged_mark_is_none(text: str) -> None:
    """A mark that cannot be read is as if there were none."""
    assert ClockMark.parse(text) is None
