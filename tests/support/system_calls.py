"""The system calls of one thread of a process, counted by strace."""

import asyncio
import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.waiting import until


@asynccontextmanager
async def counted(thread: int, file: Path) -> AsyncIterator[Counter[str]]:
    """Count the calls that the thread makes while the block runs, by name; the counts are complete after it.

    The test is skipped where strace is missing, or may not trace.
    """
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    tracer = await asyncio.create_subprocess_exec("strace", "-qq", "-p", str(thread), "-o", str(file))
    await until(lambda: _is_traced(thread) or tracer.returncode is not None)
    if tracer.returncode is not None:
        pytest.skip("strace may not trace here")
    counts: Counter[str] = Counter()
    try:
        yield counts
    finally:
        tracer.send_signal(signal.SIGINT)
        await tracer.wait()
        counts.update(line.partition("(")[0] for line in file.read_text().splitlines())


def _is_traced(thread: int) -> bool:
    return "\nTracerPid:\t0\n" not in Path(f"/proc/{thread}/status").read_text()
