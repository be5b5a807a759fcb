"""Reading and writing file descriptors that others share: they are waited for, and never made nonblocking.

A terminal's O_NONBLOCK would be the shell's too. Must not know what is read or written.
"""

import asyncio
import os
import select
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

STDIN, STDOUT, STDERR = 0, 1, 2
_READ: Final = 1 << 18
_WRITTEN: Final = select.PIPE_BUF  # pipe(7): so many bytes never wait where poll(2) says that there is room


async def readable(fd: int) -> None:
    """Return once a read will not wait."""
    loop = asyncio.get_running_loop()
    await _ready(fd, loop.add_reader, loop.remove_reader)


async def pieces(fd: int, free: asyncio.Lock) -> AsyncIterator[bytes]:
    """What is read there until its end, as it comes; while somebody else has `free`, it is theirs.

    Raises:
        OSError: it cannot be read.
    """
    while True:
        await readable(fd)
        async with free:
            if not _is_ready(fd, select.POLLIN):  # it was theirs
                continue
            data = os.read(fd, _READ)
        if not data:
            return
        yield data


async def put(fd: int, data: bytes) -> None:
    """Write all of it; a slow reader keeps nobody else waiting.

    Raises:
        OSError: it cannot be written.
    """
    left = memoryview(data)
    while left:
        if not _is_ready(fd, select.POLLOUT):
            await _writable(fd)
        try:
            left = left[os.write(fd, left[:_WRITTEN]) :]
        except BlockingIOError:  # somebody else has made it nonblocking, and was faster
            await _writable(fd)


async def _writable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    await _ready(fd, loop.add_writer, loop.remove_writer)


def _is_ready(fd: int, event: int) -> bool:
    poll = select.poll()
    poll.register(fd, event)
    return bool(poll.poll(0))


async def _ready(fd: int, watch: Callable[..., Any], forget: Callable[[int], Any]) -> None:
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    try:
        watch(fd, _settle, ready)
    except PermissionError:  # epoll(7): a regular file, which always is
        return
    try:
        await ready
    finally:
        forget(fd)


def _settle(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
