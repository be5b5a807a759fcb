"""Writes the output of a job: its stdout to standard output, its stderr to standard error, unchanged.

Optionally one stream only, with timestamps, or with nothing that acts on a terminal beyond its screen. Must not know
connections.
"""

import os
from typing import Final

from shellrunner import ascii_text
from shellrunner.cli.fd_io import STDERR, STDOUT
from shellrunner.cli.ui import formatting
from shellrunner.cli.ui.console import Console
from shellrunner.cli.ui.terminal_filter import CUT_LINES, TerminalFilter
from shellrunner.client import BytesDropped, OutputReceived

STREAM_FDS: Final = {"stdout": STDOUT, "stderr": STDERR}


class OutputWriter:
    """Writes output events in their order to a console."""

    def __init__(
        self,
        console: Console,
        *,
        only: str | None = None,
        timestamps: bool = False,
        is_filtered: bool = False,
        has_dividers: bool | None = None,
    ) -> None:
        """Write both streams, or `only` one; `timestamps` puts the time of each line before it.

        `is_filtered` removes from what is written to a terminal what acts on it beyond its screen. `has_dividers`:
        whether its parts are divided; None: if all of it is written to a terminal.
        """
        self._console, self._only, self._timestamps = console, only, timestamps
        self._filters = {
            stream: TerminalFilter(is_utf8=_is_utf8())
            for stream, fd in STREAM_FDS.items()
            if is_filtered and os.isatty(fd)
        }
        written = {STDERR, *(fd for stream, fd in STREAM_FDS.items() if only in {None, stream})}
        self.has_dividers = all(map(os.isatty, written)) if has_dividers is None else has_dividers
        self._is_cutting = False
        self._midline: set[str] = set()  # streams whose last line has no end yet
        self._dropped: dict[str, BytesDropped] = {}

    async def write(self, output: OutputReceived) -> None:
        """Write one event."""
        if self._only in {None, output.stream}:
            data = self._with_timestamps(output) if self._timestamps else output.data
            await self.write_bytes(output.stream, data)

    async def write_bytes(self, stream: str, data: bytes) -> None:
        """Write bytes of one stream."""
        output_filter = self._filters.get(stream)
        await self._console.write(STREAM_FDS[stream], output_filter.feed(data) if output_filter else data)

    async def cut_lines(self) -> None:
        """Have a terminal cut the lines that are longer than its own, where it would wrap them."""
        self._is_cutting = True
        if output_filter := self._filters.get("stdout"):
            await self._console.write(STDOUT, output_filter.feed(CUT_LINES), is_sequence=True)

    async def divide(self, message: str) -> None:
        """Write a message between two parts of the output, of which the second begins on a line of its own.

        It is written to standard error, so standard output has the bytes of the command alone.
        """
        if self.has_dividers:
            await self.restore_terminal()
            self._console.divide(message)
            self._midline.clear()
            if self._is_cutting:
                await self.cut_lines()

    async def restore_terminal(self) -> None:
        """Undo what the output has left changed on a terminal: colours, a hidden cursor."""
        for stream, output_filter in self._filters.items():
            if restore := output_filter.end():
                await self._console.write(STREAM_FDS[stream], restore, is_sequence=True)

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


def _is_utf8() -> bool:
    """Return whether the terminal has UTF-8, as the environment says (locale(7)); by default it has."""
    names = (os.environ.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))
    locale = next(filter(None, names), "")
    return "." not in locale or "utf" in ascii_text.lower(locale)


def split_lines(data: bytes) -> list[bytes]:
    """Return the lines of `data`, each with its newline; the last may have none."""
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
