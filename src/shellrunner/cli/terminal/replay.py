"""What a terminal that is attached later is shown of a job's output, before what is still to come.

The end of the output is played again, which draws most screens: programs that take lines as they always looked, and
programs that draw the whole screen if they did so lately. What the output would ask of the terminal is removed, since
the answers would be typed into the command. Modes are searched further back. Must not know keys.
"""

from contextlib import aclosing
from typing import Final, NamedTuple

from shellrunner.cli.terminal.modes import TerminalModes
from shellrunner.cli.ui.terminal_filter import TerminalFilter
from shellrunner.client import Client

_SEARCHED: Final = 1 << 20  # bytes at the end that are searched for modes
_HEAD: Final = 1 << 14  # bytes at the start that are searched too: a program sets most modes when it starts
_PLAYED: Final = 1 << 16  # bytes at the end that are played again


class Replay(NamedTuple):
    """What is written to the terminal, the modes after it, and the position in the output that it reaches."""

    drawn: bytes
    modes: TerminalModes
    position: int


async def prepare_replay(client: Client, job_id: int) -> Replay:
    """Read the output up to now."""
    size = await client.output_size(job_id)
    start = max(0, size - _SEARCHED)
    modes = TerminalModes()
    if start:
        modes.feed(await _read(client, job_id, 0, min(start, _HEAD)))
    data = await _read(client, job_id, start, size - start)
    modes.feed(data)
    tail = data[-_PLAYED:]
    if start or len(data) > len(tail):
        tail = _from_first_line(tail)
    drawn = modes.enter_screen() + TerminalFilter(is_full_screen=True).feed(tail)
    return Replay(drawn, modes, start + len(data))


async def _read(client: Client, job_id: int, start: int, size: int) -> bytes:
    data = bytearray()
    async with aclosing(client.output(job_id, start=start)) as chunks:
        async for chunk in chunks:
            data += chunk
            if len(data) >= size:
                break
    return bytes(data[:size])


def _from_first_line(data: bytes) -> bytes:
    """Return the data from the first sequence or line that begins in it: before that, it is the end of one."""
    starts = [found for found in (data.find(b"\x1b"), data.find(b"\n")) if found >= 0]
    return data[min(starts, default=0) :]
