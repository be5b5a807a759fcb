"""Wait on conditions with deadlines, never for a time."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")

WAIT_TIMEOUT = 20.0  # seconds: long enough for a loaded machine, short enough for a hang to be seen


@overload
async def until(condition: Callable[[], Awaitable[T | None]], seconds: float = ..., what: str | None = ...) -> T: ...


@overload
async def until(condition: Callable[[], T | None], seconds: float = ..., what: str | None = ...) -> T: ...


async def until(condition: Callable[[], Any], seconds: float = WAIT_TIMEOUT, what: str | None = None) -> Any:
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


async def within(awaitable: Awaitable[T], seconds: float = WAIT_TIMEOUT, *, what: str | Callable[[], str]) -> T:
    """Return the result of what is awaited; fail after `seconds` with `what`, a text or what returns it then."""
    try:
        async with asyncio.timeout(seconds) as timeout:
            return await awaitable
    except TimeoutError:
        if not timeout.expired():
            raise
        raise AssertionError(f"not within {seconds} s: {what if isinstance(what, str) else what()}") from None
