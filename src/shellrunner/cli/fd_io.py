"""Reading and writing of file descriptors shared with other processes, without making them nonblocking.

O_NONBLOCK belongs to the open file: set on a terminal, it would apply to the shell too. A running event loop is not
blocked; in a verb without one these functions block. Must not know what is read or written.
"""

import os
import select
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncio

STDIN, STDOUT, STDERR = 0, 1, 2
_READ_SIZE: Final = 1 << 18
_WRITE_SIZE: Final = select.PIPE_BUF  # pipe(7): a write of this size does not block once poll(2) reports POLLOUT


async def wait_readable(fd: int) -> None:
    """Return once a read would not block."""
    await _wait_ready(fd, select.POLLIN)


async def read_chunks(fd: int, lock: AbstractAsyncContextManager[Any]) -> AsyncIterator[bytes]:
    """Yield what can be read until the end of file; nothing is read while another task holds `lock`.

    Raises:
        OSError: the descriptor cannot be read.
    """
    while True:
        await wait_readable(fd)
        async with lock:
            if not _is_ready(fd, select.POLLIN):  # the holder of the lock has read it
                continue
            data = os.read(fd, _READ_SIZE)
        if not data:
            return
        yield data


async def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`; a slow reader does not block an event loop.

    Raises:
        OSError: the descriptor cannot be written.
    """
    rest = memoryview(data)
    while rest:
        if not _is_ready(fd, select.POLLOUT):
            await _wait_ready(fd, select.POLLOUT)
        try:
            rest = rest[os.write(fd, rest[:_WRITE_SIZE]) :]
        except BlockingIOError:  # another process made it nonblocking and wrote in between
            await _wait_ready(fd, select.POLLOUT)


def _is_ready(fd: int, event: int, timeout: float | None = 0) -> bool:
    poll = select.poll()
    poll.register(fd, event)
    return bool(poll.poll(timeout))


async def _wait_ready(fd: int, event: int) -> None:
    loop = _running_loop()
    if loop is None:
        _is_ready(fd, event, None)
        return
    add, remove = (loop.add_reader, loop.remove_reader)
    if event == select.POLLOUT:
        add, remove = (loop.add_writer, loop.remove_writer)
    ready: asyncio.Future[None] = loop.create_future()
    try:
        add(fd, _set_done, ready)
    except PermissionError:  # epoll(7): a regular file, which is always ready
        return
    try:
        await ready
    finally:
        remove(fd)


def _running_loop() -> "asyncio.AbstractEventLoop | None":
    if "asyncio" not in sys.modules:  # it takes 30 ms to import, and then no loop runs
        return None
    import asyncio  # noqa: PLC0415

    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _set_done(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
