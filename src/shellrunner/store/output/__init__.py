"""A job's output as the store presents it: extents in arrival order, and the protocol to read them.

Part of the store's contract; implemented by `reader`. Must not know where output is stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shellrunner.clock import Millis
from shellrunner.model import Stream, Volume


@dataclass(frozen=True, slots=True)
class Extent:
    """A piece of output of one stream, as it arrived: its position, when it was read from the pipe, and its bytes.

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
    """The first bytes of an output and the first entries of its index, as many of each as the slot holds."""

    data: bytes = b""
    index: bytes = b""


@dataclass(frozen=True, slots=True)
class Gap:
    """A part of an output that was recorded as stored, but is not there: its file was cut, lost or damaged.

    `begin` and `end` are the volumes before and after it: positions of the whole output and of each stream.
    """

    begin: Volume
    end: Volume

    def stream_bytes(self, stream: Stream) -> int:
        """Return how many bytes of this stream are missing."""
        return self.end.stream_bytes(stream) - self.begin.stream_bytes(stream)


class Output(Protocol):
    """A snapshot of what a job has written. Reading it never blocks the job.

    Its volume does not grow: ask the store for a new snapshot. Bytes, once written, never change. Those that
    are missing are in no answer.
    """

    @property
    def volume(self) -> Volume:
        """Bytes stored and dropped at the time of the snapshot, as recorded."""

    @property
    def lags(self) -> bool:
        """Whether there may be more, which was read elsewhere: another host runs the job, and sends its output."""

    @property
    def attempt_ends(self) -> Sequence[int]:
        """The position at which each attempt ended, but the last one; several may have ended at one position."""

    async def gaps(self, *, thorough: bool = False) -> Sequence[Gap]:
        """Check what is there, and return what is missing, in order.

        As a rule the sizes of the files are checked and the end of the index; with `thorough` all of the index.
        """

    async def read(self, position: int, limit: int) -> Sequence[Extent]:
        """Read at most `limit` bytes in arrival order, from `position` or behind the gap there; empty at the end.

        Extents are cut at `position` and `limit` where necessary; all are of one attempt. Before the end, fewer bytes
        than `limit` may be returned, but at least one.
        """

    async def read_bytes(self, position: int, limit: int) -> bytes:
        """Read at most `limit` bytes in arrival order, from `position` on, without the index, which is faster.

        Empty at the end, and where bytes are missing.
        """

    async def read_stream(self, stream: Stream, offset: int, limit: int) -> bytes:
        """Read at most `limit` bytes of one stream, starting at its own `offset`.

        Empty at its end, and where bytes are missing.
        """

    def read_both(self, limit: int) -> tuple[bytes, bytes] | None:
        """Return all of stdout and of stderr, if that takes neither waiting nor a look at what is missing; else None.

        So it is for an ended attempt without files of which each stream has at most `limit` bytes: nearly all are so.
        """

    async def offset_of(self, stream: Stream, position: int) -> int | None:
        """Return how many bytes of `stream` precede `position`, which is at most `volume.stored`.

        None where it is not known: within a gap, or, before a thorough search for gaps, near one.
        """


class EndedOutput(Output, Protocol):
    """What one attempt that has ended wrote."""

    @property
    def has_files(self) -> bool:
        """Whether a part of it is in files, and not in the history itself: files can be cut, lost or damaged."""
