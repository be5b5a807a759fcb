"""Which node sends a result when: one at a time, at the moment that is due, and another one should that node die."""

import pytest

from shellrunner.clock import now_ms
from shellrunner.model import JobSpec
from shellrunner.store import Store
from tests.postgres.racing import Nodes
from tests.support.histories import NOTHING, ended
from tests.support.nodes import Cluster

SPEC = JobSpec.model_validate({"command": "true", "notify": {"url": "http://h/"}})


async def is_due(store: Store) -> int:
    """Have a job whose result is to be sent; return its id."""
    await store.add(SPEC)
    claim = await store.claim(1, "token")
    assert await store.finish(claim.job_id, "token", ended(), *NOTHING)
    return claim.job_id


@pytest.mark.heavy
async def test_a_failed_try_is_repeated_when_it_is_due_by_any_node(nodes: Nodes) -> None:
    """Neither node waits for the end of the lease of a try that is over."""
    job = await is_due(nodes.one)
    assert [due.job.id for due in await nodes.one.due_callbacks(10)] == [job]
    retry_at = now_ms() + 5_000
    await nodes.one.record_callback_try(job, error="refused", retry_at=retry_at)
    for node in (nodes.one, nodes.two):
        due = await node.next_callback_at()
        assert due is not None
        assert abs(due - retry_at) < 1_000  # within what their clocks differ from the database's
    await nodes.one.record_callback_try(job, error="refused", retry_at=now_ms() - 1)
    assert [(due.job.id, due.tries) for due in await nodes.two.due_callbacks(10)] == [(job, 2)]


@pytest.mark.heavy
async def test_what_a_node_sends_no_other_sends_until_its_lease_ends(nodes: Nodes, cluster: Cluster) -> None:
    """The other node looks again at the end of the lease; the one that sends, which may have restarted, at once."""
    job = await is_due(nodes.one)
    assert [due.job.id for due in await nodes.one.due_callbacks(10)] == [job]
    assert await nodes.two.due_callbacks(10) == []
    at_one, at_two = await nodes.one.next_callback_at(), await nodes.two.next_callback_at()
    assert at_one is not None
    assert at_two is not None
    assert at_one <= now_ms() + 1_000
    assert at_two >= at_one + 60_000
    assert [due.job.id for due in await nodes.one.due_callbacks(10)] == [job]
    cluster.execute("UPDATE callbacks SET leased_until = clock_timestamp() - interval '1 s'")
    assert [due.job.id for due in await nodes.two.due_callbacks(10)] == [job]
    await nodes.one.record_callback_try(job, error="refused", retry_at=now_ms() - 1)
    assert await nodes.one.due_callbacks(10) == [], "the lease is the other node's by now"
