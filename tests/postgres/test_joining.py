"""A node that joins another one, which thinks that it is alone and reports nothing."""

import pytest

from shellrunner.model import JobSpec
from tests.support.nodes import Cluster
from tests.support.waiting import until


@pytest.mark.heavy
async def test_what_a_node_did_before_it_knew_another_is_not_missed(cluster: Cluster) -> None:
    """Once the first one knows the second, its log of changes has the job, or says that some were missed."""
    async with cluster.node("one") as one, cluster.node("two") as two:
        before = two.changes.head
        await one.add(JobSpec(command="true"))
        await until(lambda: two.changes.since(before, 1) != [], what="the second node follows the change")
