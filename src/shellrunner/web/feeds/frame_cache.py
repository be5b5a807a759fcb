"""The latest frames of a feed: each is made once, however many followers are at the same position.

Each feed owns one. Must not know what is in a frame.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
F = TypeVar("F")

_MAX_FRAMES: Final = 8  # followers are at the end or catching up, rarely at more positions than this


class FrameCache(Generic[K, F]):
    """Makes one frame at a time, and keeps the last few by where each begins."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._frames: OrderedDict[K, F] = OrderedDict()

    async def get(self, key: K, make: Callable[[], Awaitable[F | None]]) -> F | None:
        """Return the frame of this key, made by `make` unless it is known; None is returned, but not kept."""
        if (frame := self._frames.get(key)) is not None:
            return frame
        # One frame after the other: no follower sees an older state after a newer one.
        async with self._lock:
            frame = self._frames.get(key)
            if frame is None:
                frame = await make()
                if frame is not None:
                    self._frames[key] = frame
                    if len(self._frames) > _MAX_FRAMES:
                        self._frames.popitem(last=False)
            return frame
