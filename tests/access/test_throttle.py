"""How many wrong tokens are heard from one place."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shellrunner.access import throttle
from shellrunner.access.throttle import BURST, INTERVAL, MAX_SOURCES, Throttle


class Clock:
    """A monotonic clock that is set by hand."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([0.0, 0.1, 1.0, 5.9, 6.0, 60.0, 1e6])), max_size=80))
def test_a_place_is_heard_as_often_as_its_bucket_has_tokens(steps):
    """What is heard from each place is what a bucket of BURST, refilled by one each INTERVAL, would give."""
    clock = Clock()
    throttled, buckets = Throttle(clock), {}
    for place, later in steps:
        clock.now += later
        filled, at = buckets.get(place, (float(BURST), clock.now))
        filled = min(BURST, filled + (clock.now - at) / INTERVAL)
        heard = filled >= 1 - 1e-6
        wait = throttled.record_failure(place)
        assert (wait == 0) == heard
        if not heard:
            assert 0 <= wait - (1 - filled) * INTERVAL < 1 + 1e-3
        buckets[place] = (filled - heard, clock.now)


def test_who_waits_as_long_as_told_is_heard():
    """Retry-After is enough, and half of it is not; what was not heard makes nobody wait longer."""
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
def test_what_counts_as_one_place(one, other, are_one):
    """An IPv4 address however written, an IPv6 /64, a user of this machine."""
    throttled = Throttle(Clock())
    while not throttled.record_failure(one):
        pass
    assert bool(throttled.record_failure(other)) == are_one


def test_memory_is_bounded_and_those_who_try_on_are_remembered(monkeypatch):
    """Of more places than fit, the one that was quiet for longest is forgotten."""
    monkeypatch.setattr(throttle, "MAX_SOURCES", 100)
    throttled = Throttle(Clock())
    heard = 0
    for number in range(1000):
        throttled.record_failure(f"10.0.{number // 250}.{number % 250}")
        heard += not throttled.record_failure("192.0.2.1")
    assert len(throttled) == 100
    assert heard == BURST
    assert not throttled.record_failure("10.0.0.0")


def test_the_bound_is_what_the_readme_says():
    """Ten at once, ten a minute, ten thousand places."""
    assert (BURST, 60 / INTERVAL, MAX_SOURCES) == (10, 10, 10_000)
