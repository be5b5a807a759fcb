"""The rate limit for wrong tokens."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shellrunner.access import throttle
from shellrunner.access.throttle import BURST, INTERVAL, MAX_SOURCES, Throttle


class Clock:
    """A monotonic clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> Any:
        return self.now


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([0.0, 0.1, 1.0, 5.9, 6.0, 60.0, 1e6])), max_size=80))
def test_each_source_is_limited_as_by_a_token_bucket(steps: Any) -> None:
    """Each source is limited as by a bucket of BURST tokens that is refilled by one each INTERVAL."""
    clock = Clock()
    throttled = Throttle(clock)
    buckets: dict[Any, Any] = {}
    for source, later in steps:
        clock.now += later
        filled, at = buckets.get(source, (float(BURST), clock.now))
        filled = min(BURST, filled + (clock.now - at) / INTERVAL)
        accepted = filled >= 1 - 1e-6
        wait = throttled.record_failure(source)
        assert (wait == 0) == accepted
        if not accepted:
            assert 0 <= wait - (1 - filled) * INTERVAL < 1 + 1e-3
        buckets[source] = (filled - accepted, clock.now)


def test_waiting_for_retry_after_is_enough() -> None:
    """Waiting for Retry-After is enough, and half of it is not; failures beyond the limit do not extend the wait."""
    clock = Clock()
    throttled = Throttle(clock)
    assert [throttled.record_failure("192.0.2.1") for _ in range(BURST + 3)] == [0] * BURST + [INTERVAL] * 3
    clock.now += INTERVAL / 2
    assert throttled.record_failure("192.0.2.1") == INTERVAL / 2
    clock.now += INTERVAL / 4
    assert throttled.record_failure("192.0.2.1") == 2 > INTERVAL / 4  # whole seconds, rounded up
    clock.now += INTERVAL / 4
    assert throttled.record_failure("192.0.2.1") == 0
    assert throttled.record_failure("192.0.2.1") == INTERVAL


@pytest.mark.parametrize(
    ("one", "other", "are_one"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("uid:1", "uid:2", False),
        ("uid:None", "uid:None", True),
        ("", "unknown", False),
    ],
)
def test_what_counts_as_one_source(one: str, other: str, are_one: bool) -> None:
    """An IPv4 address in any spelling, an IPv6 /64, and a local user are one source each."""
    throttled = Throttle(Clock())
    while not throttled.record_failure(one):
        pass
    assert bool(throttled.record_failure(other)) == are_one


def test_memory_is_bounded_and_active_sources_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond MAX_SOURCES the source without failures for longest is forgotten, and one that goes on is not."""
    monkeypatch.setattr(throttle, "MAX_SOURCES", 100)
    throttled = Throttle(Clock())
    accepted = 0
    for number in range(1000):
        throttled.record_failure(f"10.0.{number // 250}.{number % 250}")
        accepted += not throttled.record_failure("192.0.2.1")
    assert len(throttled) == 100
    assert accepted == BURST
    assert not throttled.record_failure("10.0.0.0")


def test_the_limits_are_what_the_readme_says() -> None:
    """The limits are ten at once, ten a minute, ten thousand sources."""
    assert (BURST, 60 / INTERVAL, MAX_SOURCES) == (10, 10, 10_000)
