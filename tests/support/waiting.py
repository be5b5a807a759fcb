"""Wait on conditions with deadlines, never for a time."""

import asyncio
import inspect
import time

SOON = 20.0  # seconds: long enough for a loaded machine, short enough for a hang to be seen


async def until(condition, seconds=SOON, what=None):
    """Return the first true value of `condition()` (awaited if need be); fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or inspect.getsource(condition).strip()}")
        await asyncio.sleep(0.01)
