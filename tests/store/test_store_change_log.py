"""The change log: each job's latest change in order, from wherever a reader is, at a bounded cost and size."""

import random
from collections import OrderedDict

import pytest

from shellrunner.store.change_log import InMemoryChangeLog


@pytest.mark.parametrize("jobs", [3, 8, 30])
def test_it_has_what_a_full_record_of_all_changes_has(jobs: int) -> None:
    """Whatever changes, and from wherever one reads: all later jobs, each once in order, or that it forgot some."""
    chance, log, record = random.Random(jobs), InMemoryChangeLog(max_jobs=10), OrderedDict[int, int]()
    for number in range(1, 1500):
        # Some jobs change all the time, and some hardly ever.
        job_id = int(chance.random() ** 3 * jobs)
        log.append(job_id)
        record[job_id] = number
        record.move_to_end(job_id)
        after = chance.randrange(number + 1)
        found = log.since(after, 5)
        assert log.head == number
        if found is not None:
            assert found == [(change, job_id) for job_id, change in record.items() if change > after][:5]
        assert log.since(number - 1, 5) == [(number, job_id)]
        assert log.since(number + 1, 5) is None
        assert len(log._jobs) <= 81
    if jobs < 10:
        assert log.since(log.head - 40, 5) is not None
    else:
        assert log.since(0, 5) is None


def test_a_reader_who_is_far_behind_costs_what_it_is_sent() -> None:
    """Of twenty thousand changes, the first ten are found by looking at ten."""
    looks = 0

    class Counted(OrderedDict[int, int]):
        def get(self, job_id: int, *default: object) -> int | None:  # type: ignore[override]
            nonlocal looks
            looks += 1
            return super().get(job_id)

    log = InMemoryChangeLog()
    log._latest = Counted()
    for job_id in range(20_000):
        log.append(job_id)
    assert log.since(0, 10) == [(job_id + 1, job_id) for job_id in range(10)]
    assert looks == 10
