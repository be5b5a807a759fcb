"""The latest frames of a feed: each is made once, however many followers are at the same position.

Each feed owns one. Must not know what is in a frame.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, Protocol, TypeVar

_MAX_SIZE: Final = 1 << 20  # bytes of events; followers are at the end or catching up, rarely at many positions


class Frame(Protocol):
    """What all followers at one position receive."""

    @property
    def events(self) -> bytes:
        """The bytes that are sent."""


K = TypeVar("K", bound=Hashable)
F = TypeVar("F", bound=Frame)


class FrameCache(Generic[K, F]):
    """Makes one frame at a time, and keeps the last few by where each begins."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._frames: OrderedDict[K, F] = OrderedDict()
        self._size = 0

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
                    self._keep(key, frame)
            return frame

    def _keep(self, key: K, frame: F) -> None:
        self._frames[key] = frame
        self._size += len(frame.events)
        while self._size > _MAX_SIZE and len(self._frames) > 1:
            _, oldest = self._frames.popitem(last=False)
            self._size -= len(oldest.events)
