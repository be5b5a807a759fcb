"""What a job wrote, as the store tells of it: pieces in arrival order, and one way to read them.

Part of the store's contract. Must not know where output lies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shellrunner.clock import Millis
from shellrunner.model import Stream, Volume


@dataclass(frozen=True, slots=True)
class Extent:
    """A piece of output as it arrived: `data` of one stream, its place, and when it was read from the pipe.

    `position` counts the bytes of both streams in arrival order, `offset` those of `stream` alone;
    `position + len(data)` is where the next extent begins.
    """

    position: int
    stream: Stream
    offset: int
    time: Millis
    data: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """The first bytes of an output, and the index of all of it that fits, as they lay in the slot."""

    data: bytes = b""
    index: bytes = b""


class Output(Protocol):
    """What one job had written when this was asked for; reading it never blocks the job.

    Its figures are a snapshot: ask the store again for later ones. Bytes, once there, never change.
    """

    @property
    def volume(self) -> Volume:
        """Bytes stored and dropped so far."""

    async def read(self, position: int, limit: int) -> Sequence[Extent]:
        """Read at most `limit` bytes in arrival order from `position` on; empty at the end.

        An extent is cut at `position` and at `limit` where it must be. May return fewer bytes than `limit`
        before the end, but then at least one.
        """

    async def read_stream(self, stream: Stream, offset: int, limit: int) -> bytes:
        """Read at most `limit` bytes of one stream from its own `offset` on; empty only at its end."""

    async def offset_of(self, stream: Stream, position: int) -> int:
        """How many bytes of `stream` lie before `position` (at most `volume.stored`)."""
