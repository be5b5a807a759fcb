"""A node that claims jobs and runs none, for the cost of claims alone; a process of its own.

    python -m benchmarks.cluster.claimer DELIVERY STATE_DIR    (the URL of the database in SHELLRUNNER_STORE__URL)

Prints "ready"; for each line of its stdin, a number, it claims as many jobs, and prints the seconds that took.
"""

import asyncio
import itertools
import os
import sys
import time
from pathlib import Path

from shellrunner.store import Retention, Work
from shellrunner.store.postgres.composition import PostgresConfig, open_store
from shellrunner.store.postgres.node_config import NodeConfig

_WAITING = 16  # keepers that wait for a job at a time


async def _claim(store: Work, jobs: int) -> None:
    """Claim this many jobs: each keeper that has got one is replaced, as in a node whose jobs are short."""
    turns = iter(range(jobs))

    async def keeper() -> None:
        for _ in turns:
            number = next(_NUMBERS)
            await store.claim(number, f"token-{number}")

    async with asyncio.TaskGroup() as group:
        for _ in range(_WAITING):
            group.create_task(keeper())


_NUMBERS = itertools.count(1)


async def main(delivery: str, state_dir: Path) -> None:
    """Claim as many jobs as each line says."""
    config = PostgresConfig(os.environ["SHELLRUNNER_STORE__URL"], delivery)
    node = NodeConfig("claimer", "benchmark", _WAITING)
    async with open_store(config, state_dir, Retention(), node=node) as store:
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            began = time.perf_counter()
            await _claim(store, int(line))
            print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    path = Path(sys.argv[2])
    path.mkdir(parents=True)
    asyncio.run(main(sys.argv[1], path))
