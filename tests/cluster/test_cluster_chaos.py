"""The whole promise in a cluster: whatever is killed, stopped or cut, the history has what the commands witnessed."""

from pathlib import Path

import pytest

from tests.cluster.hosts import require_namespaces
from tests.cluster.rounds import ClusterRound


@pytest.mark.heavy
@pytest.mark.timeout(450)
async def test_cluster_chaos(tmp_path: Path, seed: int, whole: bool) -> None:
    """Two API nodes and three workers: nothing is missing, doubled, false or stuck.

    The short selection is one of two, by the seed: everything is killed, or all but hosts and keepers.
    """
    if whole:
        require_namespaces()
    for sparing in (False, True) if whole else (bool(seed % 2),):
        path = tmp_path / f"sparing-{sparing}"
        path.mkdir()
        await ClusterRound(path, seed, sparing=sparing, namespaces=whole).run(30 if whole else 4)


@pytest.mark.soak
@pytest.mark.timeout(0)
async def test_cluster_chaos_for_long(tmp_path: Path, seed: int) -> None:
    """Rounds of 2,000 jobs, each with another seed, until there were 20,000; in some, faults outlast a lease."""
    require_namespaces()
    for number in range(10):
        path = tmp_path / str(number)
        path.mkdir()
        longest = 25.0 if number % 5 == 4 else 2.0
        chaos = ClusterRound(path, seed + number, sparing=bool(number % 2), namespaces=True, longest=longest)
        await chaos.run(60, jobs=2_000, clients=20)
