"""A pseudo-terminal as a command's input and output: its size, what is typed, and how its input ends.

Owned by what is being kept. Must not know messages or slots. What a terminal does to what passes through it, it does
here too (termios(3)): a newline becomes `\\r\\n`, Ctrl-C a signal, a line has at most 4,095 bytes. Only the echo is
off, since nobody looks at what is typed.
"""

import os
import select
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

from .stdin_buffer import StdinBuffer

_LOCAL, _CHARACTERS = 3, 6  # c_lflag and c_cc in what tcgetattr gives
_SOON, _SELDOM, _SLOWER = 0.001, 1.0, 1.25  # seconds between looks, which grow by a quarter of the time waited
_HELD = 65_536  # bytes; more than the kernel holds between the two ends (n_tty and pty: 4 and 8 KiB)
_PIECE = 65_536


class Pty(StdinBuffer):
    """Both ends. The command's own end is held open while it runs: one that closes it all may open /dev/tty again."""

    def __init__(self, size: Sequence[int], given: bytes, *, is_open: bool) -> None:
        """Make a terminal of `size` (rows, columns) into which `given` will be typed.

        Raises:
            OSError: there is none left.
        """
        super().__init__(-1, given, is_open=is_open)
        self.screen, self._slave = os.openpty()
        try:
            os.set_blocking(self.screen, False)
            self.sink = os.dup(self.screen)
            termios.tcsetwinsize(self._slave, (size[0], size[1]))
            attributes = termios.tcgetattr(self._slave)
            attributes[_LOCAL] &= ~termios.ECHO
            termios.tcsetattr(self._slave, termios.TCSANOW, attributes)
            self.path = os.ttyname(self._slave)
        except (OSError, termios.error) as error:
            self.close()
            os.close(self.screen)
            raise OSError(error.args[0], error.args[1]) from None
        self._pause = _SOON
        self._key_typed = False

    def give_to(self, uid: int) -> None:
        """Let it belong to a user, as grantpt(3) would: its group stays the terminals'.

        Raises:
            OSError: it cannot.
        """
        os.fchown(self._slave, uid, -1)

    def finish(self) -> None:
        """Begin to type the end of the input."""
        self.look()

    def look(self) -> None:
        """Type the end of the input (again) if the last one was read.

        A read that sees the end takes it away, and the next would wait for ever: so the end is typed again whenever
        nothing is left to read, for as long as the command runs. A terminal that is not reading lines (raw) has no
        end; it gets the key once, which is what programs that edit a line themselves take for it.
        """
        self.due = time.monotonic() + self._pause
        self._pause = min(self._pause * _SLOWER, _SELDOM)
        if self._is_unread():
            return
        try:
            attributes = termios.tcgetattr(self._slave)
        except termios.error:  # EIO: hung up (vhangup(2)) since it was looked at, and nobody reads it any more
            return
        reads_lines = bool(attributes[_LOCAL] & termios.ICANON)
        key = attributes[_CHARACTERS][termios.VEOF]
        if (reads_lines or not self._key_typed) and key != b"\0":  # NUL: the command has switched it off
            with suppress(OSError):
                os.write(self.sink, key)
                self._pause = _SOON
        self._key_typed = not reads_lines

    def rest(self) -> Iterator[bytes]:
        """What the command wrote and was not read yet, after its end; its children may go on writing for ever.

        A read says EAGAIN or EIO only after what was on its way through the kernel has arrived (`n_tty_read` flushes
        it first, since Linux 4.7), so nothing has to be waited for.
        """
        left = _HELD
        while left > 0:
            try:
                data = os.read(self.screen, min(left, _PIECE))
            except OSError:
                return
            left -= len(data)
            yield data

    def close(self) -> None:
        """Type no more, and leave the terminal to the command and its children; `screen` can still be read."""
        super().close()
        self.due = None
        slave, self._slave = self._slave, -1
        if slave >= 0:
            os.close(slave)

    def _is_unread(self) -> bool:
        poll = select.poll()
        poll.register(self._slave, select.POLLIN)
        return bool(poll.poll(0))
