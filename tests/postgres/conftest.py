"""What the tests of the store on PostgreSQL share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import nodes


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[nodes.Cluster]:
    """Yield an empty history in PostgreSQL, of which a test opens nodes."""
    with nodes.cluster(tmp_path) as made:
        yield made
