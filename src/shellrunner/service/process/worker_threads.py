"""The threads of the event loop's executor, all started with the service.

Started when they are first needed, as is the default, they would need descriptors (for imports) and processes at a
moment when there may be none, and the failure would end whatever needed a thread. Must not know what runs in them.
"""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

_COUNT: Final = 4


def start_worker_threads() -> None:
    """Give the running loop an executor whose threads run already; `asyncio.run` ends them."""
    executor = ThreadPoolExecutor(_COUNT, thread_name_prefix="worker")
    # A thread is started only if none is idle, so all of them must be busy at once.
    all_started = threading.Barrier(_COUNT + 1)
    for _ in range(_COUNT):
        executor.submit(all_started.wait)
    all_started.wait()
    asyncio.get_running_loop().set_default_executor(executor)
