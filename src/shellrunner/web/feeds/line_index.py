"""How many lines end before each block of an output, so that a line is found in one block instead of in all of it.

`LineIndexes` belongs to the app; an index grows with what was read of its output, and is kept for some time, since
bytes once written never change. Must not know sockets.
"""

import asyncio
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, TypeVar

from aiohttp import web

from shellrunner.results import read_whole
from shellrunner.store.output.present import PresentBytes
from shellrunner.wire.text import line_ends
from shellrunner.wire.text_search import count_lines

T = TypeVar("T")

BLOCK_SIZE: Final = 1 << 22  # bytes that are read at once
SLICE_SIZE: Final = 1 << 18  # bytes after which a thread lets others go on: it holds the interpreter's lock till then
_MAX_INDEXES: Final = 256


class BlockReader:
    """The bytes of an output, read in blocks and processed on a thread: one block of all outputs at a time."""

    def __init__(self, present: PresentBytes, semaphore: asyncio.Semaphore) -> None:
        """`semaphore` is held while a block is read and processed."""
        self._present, self._semaphore = present, semaphore

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return self._present.size

    async def process(self, begin: int, length: int, work: Callable[[bytes], T]) -> T:
        """Read exactly so many bytes, and return what `work` makes of them on a thread.

        Raises:
            MissingBytesError: they are not all there any more.
        """
        async with self._semaphore:
            data = await read_whole(self._present.read_fast, begin, length)
            if len(data) < length:
                raise MissingBytesError
            return await asyncio.to_thread(work, data)


class LineIndex:
    """The lines of one output, or of one of its streams."""

    def __init__(self, charset: str) -> None:
        self.charset = charset
        self._before = [0]  # by block: how many lines end before it; the last is where to count on
        self._total = (0, 0)  # the size of an output, and how many lines it has

    def record_block(self, block: int, lines: int) -> None:
        """Note how many lines end in a whole block, if that is the next one to be counted."""
        if block == len(self._before) - 1:
            self._before.append(self._before[-1] + lines)

    async def lines_before(self, reader: BlockReader, place: int) -> int:
        """Return how many lines end in the bytes before a place."""
        block = place // BLOCK_SIZE
        while len(self._before) <= block:
            await self._count_next(reader)
        begin = block * BLOCK_SIZE
        return self._before[block] + await self._count(reader, begin, place - begin)

    async def lines(self, reader: BlockReader) -> int:
        """Return how many lines there are; the last one may be unfinished."""
        if self._total[0] != reader.size:
            width = len("\n".encode(self.charset))
            begin = max(0, reader.size - width)
            lines = await self.lines_before(reader, reader.size)
            is_unfinished = not await self._count(reader, begin, reader.size - begin)
            self._total = (reader.size, lines + is_unfinished)
        return self._total[1]

    async def line_begin(self, reader: BlockReader, line: int) -> int:
        """Return where a line begins, of which the number counts from 1 and is at most that of the last line."""
        ended = line - 1  # so many lines end before it
        if ended == 0:
            return 0
        while self._before[-1] < ended and len(self._before) * BLOCK_SIZE <= reader.size:
            await self._count_next(reader)
        block = max(0, bisect_left(self._before, ended) - 1)
        begin = block * BLOCK_SIZE
        number, length = ended - self._before[block], min(BLOCK_SIZE, reader.size - begin)
        at = await reader.process(begin, length, lambda data: _end_of_line(data, number, self.charset))
        return begin + at

    async def _count_next(self, reader: BlockReader) -> None:
        block = len(self._before) - 1
        self.record_block(block, await self._count(reader, block * BLOCK_SIZE, BLOCK_SIZE))

    async def _count(self, reader: BlockReader, begin: int, length: int) -> int:
        if length == 0:
            return 0
        return await reader.process(begin, length, lambda data: count_in_slices(data, self.charset))


class LineIndexes:
    """The indexes of the outputs that were asked for lately.

    semaphore: of their `BlockReader`s, so that all searches together use one processor at most.
    """

    def __init__(self) -> None:
        self.semaphore = asyncio.Semaphore(1)
        self._indexes: OrderedDict[Hashable, LineIndex] = OrderedDict()

    def get(self, key: Hashable, charset: str) -> LineIndex:
        """Return the index of an output, or of one of its streams."""
        index = self._indexes.pop(key, None) or LineIndex(charset)
        self._indexes[key] = index
        while len(self._indexes) > _MAX_INDEXES:
            self._indexes.popitem(last=False)
        return index


LINE_INDEXES: Final = web.AppKey("line_indexes", LineIndexes)


class MissingBytesError(Exception):
    """Bytes that were there when the files were looked at are missing."""


def count_in_slices(data: bytes, charset: str) -> int:
    """Return how many lines end in the bytes, which begin at a character; for a thread."""
    lines = 0
    for begin in range(0, len(data), SLICE_SIZE):
        lines += count_lines(data[begin : begin + SLICE_SIZE], begin, charset)
        release_gil()
    return lines


def release_gil() -> None:
    """Let another thread go on that waits for the interpreter's lock."""
    time.sleep(0)


def _end_of_line(data: bytes, number: int, charset: str) -> int:
    """Return where the line with this number, counted from 1, ends in `data`; its end if it does not end there."""
    for begin in range(0, len(data), SLICE_SIZE):
        part = data[begin : begin + SLICE_SIZE]
        lines = count_lines(part, begin, charset)
        if lines >= number:
            return line_ends(part, begin, charset)[number - 1]
        number -= lines
        release_gil()
    return len(data)
