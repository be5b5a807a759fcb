"""`shellrunner` that counts what its event loop does and which statements its writing connection executes.

It writes the counts since its start to the file in SHELLRUNNER_TESTS_COUNTS at each SIGUSR1: `turns` and `callbacks`
of the loop, `tasks`, `calls` of Python functions on its thread, and statements by their first three words. They do
not depend on the machine's speed: it writes nothing by itself, which on a slow one would count for fewer jobs.
"""

import json
import os
import signal
import sqlite3
import sys
from asyncio import base_events
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from shellrunner.cli import main
from shellrunner.store.sqlite import opening
from tests.support.quiet_server import be_quiet

_FILE = Path(os.environ.pop("SHELLRUNNER_TESTS_COUNTS"))
_counts: Counter[str] = Counter()


def _counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def count(*args: Any, **kwargs: Any) -> Any:
        _counts[name] += 1
        return function(*args, **kwargs)

    return count


def _count_statements(open_writing: Callable[..., sqlite3.Connection]) -> Callable[..., sqlite3.Connection]:
    def opened(*args: Any) -> sqlite3.Connection:
        db = open_writing(*args)
        db.set_trace_callback(lambda sql: _counts.update([" ".join(sql.split()[:3])]))
        return db

    return opened


def _count_calls(_: FrameType, event: str, __: object) -> None:
    if event == "call":
        _counts["calls"] += 1


def _write(*_: object) -> None:
    part = _FILE.with_suffix(".part")
    part.write_text(json.dumps(_counts))
    part.rename(_FILE)


if __name__ == "__main__":
    be_quiet()
    loop: Any = base_events.BaseEventLoop
    loop._run_once = _counted("turns", loop._run_once)
    loop.call_soon = _counted("callbacks", loop.call_soon)
    loop.create_task = _counted("tasks", loop.create_task)
    changed: Any = opening
    changed.open_writing = _count_statements(changed.open_writing)
    signal.signal(signal.SIGUSR1, _write)
    sys.setprofile(_count_calls)
    main()
