"""Writes the output of a job: its stdout to standard output, its stderr to standard error, unchanged.

Optionally one stream only, or with timestamps. Must not know connections.
"""

from typing import Final

from shellrunner.cli.fd_io import STDERR, STDOUT
from shellrunner.cli.ui import formatting
from shellrunner.cli.ui.console import Console
from shellrunner.client import BytesDropped, OutputReceived

STREAM_FDS: Final = {"stdout": STDOUT, "stderr": STDERR}


class OutputWriter:
    """Writes output events in their order to a console."""

    def __init__(self, console: Console, *, only: str | None = None, timestamps: bool = False) -> None:
        """Write both streams, or `only` one; `timestamps` puts the time of each line before it."""
        self._console, self._only, self._timestamps = console, only, timestamps
        self._midline: set[str] = set()  # streams whose last line has no end yet
        self._dropped: dict[str, BytesDropped] = {}

    async def write(self, output: OutputReceived) -> None:
        """Write one event."""
        if self._only in {None, output.stream}:
            data = self._with_timestamps(output) if self._timestamps else output.data
            await self._console.write(STREAM_FDS[output.stream], data)

    def record_dropped(self, dropped: BytesDropped) -> None:
        """Remember the number of bytes that were not stored or are missing; it grows until the job ends."""
        self._dropped[dropped.stream] = dropped

    def report_dropped(self) -> bool:
        """Report how many bytes are not there, if there are any; return whether there are."""
        mine = [each for each in self._dropped.values() if each.bytes and self._only in {None, each.stream}]
        for stream, count, _, missing in mine:
            for number, what in ((count - missing, "could not be stored"), (missing, "was stored, but is missing")):
                if number:
                    message = f"{formatting.format_size(number)} of {stream} {what}"
                    self._console.report(message, required=True)
        return bool(mine)

    def _with_timestamps(self, output: OutputReceived) -> bytes:
        lines = split_lines(output.data)
        prefix = f"{output.time} ".encode()
        continues = output.stream in self._midline
        (self._midline.discard if output.data.endswith(b"\n") else self._midline.add)(output.stream)
        return b"".join(line if continues and not index else prefix + line for index, line in enumerate(lines))


def split_lines(data: bytes) -> list[bytes]:
    """Return the lines of `data`, each with its newline; the last may have none."""
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
