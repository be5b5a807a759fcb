"""A job's output on a terminal: stdout there, stderr there, to the byte; perhaps one of them, perhaps with times.

Used by whoever follows a job. Must not know connections.
"""

from typing import Final

from shellrunner.cli.fd_io import STDERR, STDOUT
from shellrunner.cli.ui import formatting
from shellrunner.cli.ui.console import Console
from shellrunner.client import BytesDropped, OutputReceived

PLACES: Final = {"stdout": STDOUT, "stderr": STDERR}


class OutputWriter:
    """Where output goes."""

    def __init__(self, terminal: Console, *, only: str | None = None, timed: bool = False) -> None:
        """Pour `only` one stream, or both; `timed` puts its time before each line."""
        self._terminal, self._only, self._timed = terminal, only, timed
        self._midline: set[str] = set()
        self._lost: dict[str, int] = {}

    def lose(self, dropped: BytesDropped) -> None:
        """Remember what is missing: it grows while it is told."""
        self._lost[dropped.stream] = dropped.bytes

    def say_lost(self) -> None:
        """Tell what is missing, if anything is."""
        for stream, count in self._lost.items():
            if self._only in {None, stream}:
                self._terminal.say(f"{formatting.size(count)} of {stream} could not be stored", needed=True)

    async def pour(self, output: OutputReceived) -> None:
        """Write this piece."""
        if self._only in {None, output.stream}:
            data = self._with_times(output) if self._timed else output.data
            await self._terminal.write(PLACES[output.stream], data)

    def _with_times(self, output: OutputReceived) -> bytes:
        lines = lines_of(output.data)
        before = f"{output.time} ".encode()
        begun = output.stream in self._midline
        (self._midline.discard if output.data.endswith(b"\n") else self._midline.add)(output.stream)
        return b"".join(line if begun and not number else before + line for number, line in enumerate(lines))


def lines_of(data: bytes) -> list[bytes]:
    """Its lines, each with the newline that ends it; the last may have none."""
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
