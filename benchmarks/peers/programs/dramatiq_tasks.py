"""Tasks of dramatiq, with redis as broker and for the results."""

import os
import subprocess
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

broker = RedisBroker(url=os.environ["REDIS"])
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["REDIS"])))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def run() -> int:
    """Run an empty command."""
    return subprocess.run(["sh", "-c", "true"], check=False).returncode


def enqueue() -> Any:
    """Enqueue a task."""
    return run.send()


def result(task: Any) -> Any:
    """Wait for its result."""
    return task.get_result(block=True, timeout=60_000)
