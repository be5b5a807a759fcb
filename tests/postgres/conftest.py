"""What the tests of the store on PostgreSQL share."""

import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.postgres.racing import Nodes
from tests.support import nodes as several_nodes
from tests.support.nodes import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Yield an empty history in PostgreSQL, of which a test opens nodes."""
    with several_nodes.cluster(tmp_path) as made:
        yield made


@pytest.fixture
def rounds(pytestconfig: pytest.Config) -> int:
    """Return how often each race is run."""
    return int(pytestconfig.getoption("--rounds"))


@pytest.fixture
async def nodes(cluster: Cluster, seed: int) -> AsyncIterator[Nodes]:
    """Yield two nodes of one history, and the random choices of the test."""
    async with cluster.node("one", slots=100) as one, cluster.node("two", slots=100) as two:
        yield Nodes(one, two, random.Random(seed))
