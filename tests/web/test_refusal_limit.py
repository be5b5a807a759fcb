"""The limit of lines for refused requests: who may have how many, and that every other one is counted."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from shellrunner.web.security.refusal_limit import MAX_SOURCES, RefusalLimit


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


NAMES = st.sampled_from(["a", "b", "c", "d", "e", "f"])


def refuse(limit: RefusalLimit, source: str, times: int, reason: str = "wrong-host") -> int:
    """Refuse a source so many requests; return how many lines are written."""
    written = 0
    for _ in range(times):
        if limit.admits(source):
            written += 1
        else:
            limit.count(source, reason)
    return written


def test_a_client_has_a_quarter_and_all_together_the_whole() -> None:
    """Of 40 lines a minute one client has 10 at once, and one each six seconds; ten clients have 40."""
    clock = Clock()
    limit = RefusalLimit(40, clock)
    assert refuse(limit, "a", 90_000) == 10
    assert [refuse(limit, name, 20) for name in "bcdefg"] == [10, 10, 10, 0, 0, 0]
    clock.now += 6
    assert refuse(limit, "a", 100) == 1
    clock.now += 3600
    assert refuse(limit, "a", 100) == 10


def test_without_a_limit_every_line_is_written() -> None:
    """None is no limit."""
    assert refuse(RefusalLimit(None, Clock()), "a", 1000) == 1000


@given(st.lists(st.tuples(NAMES, st.integers(0, 40), st.floats(0, 30), st.integers(0, 7)), max_size=30))
def test_no_refused_request_is_lost(steps: list[tuple[str, int, float, int]]) -> None:
    """Whatever comes when, written and counted lines together are all that was refused, by source."""
    clock, refused, found = Clock(), Counter[str](), Counter[str]()
    limit = RefusalLimit(12, clock)
    for source, times, pause, taken in steps:
        refused[source] += times
        found[source] += refuse(limit, source, times)
        clock.now += pause
        counts = limit.take_counts()
        for _ in range(taken):  # the caller may stop at any of them, as when the log takes nothing
            for name, reasons in counts:
                found[name] += reasons.total()
                break
        for _ in counts:
            break  # was not written: it stays counted
        counts.close()
    for name, reasons in limit.take_counts():
        found[name] += reasons.total()
    assert +found == +refused


def test_what_is_remembered_is_bounded() -> None:
    """Of more sources than are remembered, the number of lines is kept, and the most refused 20 are named."""
    limit = RefusalLimit(4, Clock())
    number = 3 * MAX_SOURCES
    written = sum(refuse(limit, f"10.0.{each}", 3) for each in range(number))
    assert len(limit._sources) == MAX_SOURCES
    counts = list(limit.take_counts())
    assert len(counts) == 21
    assert counts[-1][0] == ""
    assert written + sum(reasons.total() for _, reasons in counts) == 3 * number
    assert limit.total == 3 * number - written
