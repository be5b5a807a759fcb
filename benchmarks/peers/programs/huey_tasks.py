"""Tasks of huey, on its SQLite storage."""

import os
import subprocess
from typing import Any

from huey import SqliteHuey

queue = SqliteHuey(filename=os.environ["QUEUE"])


@queue.task()
def run() -> int:
    """Run an empty command."""
    return subprocess.run(["sh", "-c", "true"], check=False).returncode


def enqueue() -> Any:
    """Enqueue a task."""
    return run()


def result(task: Any) -> Any:
    """Wait for its result."""
    return task.get(blocking=True, timeout=60, backoff=1, max_delay=0.02)
