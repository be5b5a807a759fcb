"""Tasks of celery, with redis as broker and for the results."""

import os
import subprocess
from typing import Any

from celery import Celery

app = Celery("tasks", broker=os.environ["REDIS"], backend=os.environ["REDIS"])


@app.task
def run() -> int:
    """Run an empty command."""
    return subprocess.run(["sh", "-c", "true"], check=False).returncode


def enqueue() -> Any:
    """Enqueue a task."""
    return run.delay()


def result(task: Any) -> Any:
    """Wait for its result."""
    return task.get(timeout=60)
