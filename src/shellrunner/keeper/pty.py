"""A pseudo-terminal as a command's input and output: its size, its input, and the end of the input.

Owned by the running command. Must not know messages or slots. A terminal changes what passes through it (termios(3)):
a newline becomes `\\r\\n`, Ctrl-C a signal, a line has at most 4,095 bytes. The echo is off unless
somebody watches what is typed.
"""

import errno
import fcntl
import os
import select
import signal
import termios
import time
from collections.abc import Sequence
from contextlib import suppress

from .stdin_buffer import StdinBuffer

_LOCAL, _CHARACTERS = 3, 6  # c_lflag and c_cc in the list that tcgetattr returns
_MIN_POLL_INTERVAL, _MAX_POLL_INTERVAL, _BACKOFF = 0.001, 1.0, 1.25  # seconds, seconds, factor


class Pty(StdinBuffer):
    """Both ends of a pseudo-terminal (pty(7)); output is read from `master`.

    The command's end stays open here while the command runs: one that closes it everywhere may open /dev/tty again.

    The terminal's session is the keeper's. A leader's end sends SIGHUP to the foreground (_exit(2)): if the command
    led it, its end would kill the filters behind its output, and a cancel what is saving its work.
    """

    _GONE = (errno.EPIPE, errno.EIO)  # EIO: it was hung up (vhangup(2))

    def __init__(self, size: Sequence[int], initial: bytes, *, is_open: bool, echo: bool = False) -> None:
        """Open a terminal of `size` (rows, columns) into which `initial` is typed, and shown with `echo`.

        Raises:
            OSError: there is none left.
        """
        super().__init__(-1, initial, is_open=is_open)
        self.master, self._slave = os.openpty()
        try:
            os.set_blocking(self.master, False)
            self.sink = os.dup(self.master)
            termios.tcsetwinsize(self._slave, (size[0], size[1]))
            if not echo:
                attributes = termios.tcgetattr(self._slave)
                attributes[_LOCAL] &= ~termios.ECHO
                termios.tcsetattr(self._slave, termios.TCSANOW, attributes)
        except (OSError, termios.error) as error:
            self.close()
            with suppress(OSError):
                os.close(self.master)
            raise OSError(error.args[0], error.args[1]) from None
        self._poll_interval = _MIN_POLL_INTERVAL
        self._key_typed = False

    @property
    def command_end(self) -> int:
        """The descriptor of the command's end."""
        return self._slave

    def size(self) -> list[int] | None:
        """Return its rows and columns as of now: the command may have changed them; None if it was closed."""
        try:
            return list(termios.tcgetwinsize(self.master))
        except termios.error:
            return None

    def resize(self, rows: int, columns: int) -> bool:
        """Set its size, and have the foreground notice: SIGWINCH, also if it has this size already.

        Returns:
            False if there is no terminal any more: the command has hung it up (vhangup(2)).
        """
        if self.size() == [rows, columns]:
            with suppress(OSError):  # no foreground, or another user's
                os.killpg(os.tcgetpgrp(self.master), signal.SIGWINCH)
            return True
        try:
            termios.tcsetwinsize(self.master, (rows, columns))  # the kernel sends it (ioctl_tty(2))
        except termios.error:
            return False
        return True

    def become_controlling(self) -> None:
        """Make it this process's controlling terminal, until `master` and every copy of it are closed.

        Raises:
            OSError: this process has one already, or leads a group but no session.
        """
        if os.getsid(0) != os.getpid():
            os.setsid()
        fcntl.ioctl(self._slave, termios.TIOCSCTTY, 0)

    def enter_foreground(self, pid: int) -> None:
        """Put a child of this process into a group of its own, and that into the foreground.

        Raises:
            OSError: it has ended.
        """
        os.setpgid(pid, pid)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])  # else it would stop this process
        try:
            os.tcsetpgrp(self._slave, pid)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTTOU])

    def chown(self, uid: int) -> None:
        """Give the terminal to a user, as grantpt(3) does; its group stays.

        Raises:
            OSError: not permitted.
        """
        os.fchown(self._slave, uid, -1)

    def signal_end(self) -> None:
        """Begin to type the end-of-file key."""
        self.poll()

    def poll(self) -> None:
        """Type the end-of-file key (again) if the last one was read.

        A read that sees the end consumes it, and the next one would wait for ever: so the key is typed again whenever
        nothing is left to read, as long as the command runs. A terminal in raw mode does not read lines and has no
        end; it gets the key once, which programs with a line editor take for the end.
        """
        if self._pending:
            super().poll()
            return
        self.due = time.monotonic() + self._poll_interval
        self._poll_interval = min(self._poll_interval * _BACKOFF, _MAX_POLL_INTERVAL)
        if self._is_unread():
            return
        try:
            attributes = termios.tcgetattr(self._slave)
        except termios.error:  # EIO: it was hung up (vhangup(2)) meanwhile, and nobody reads it any more
            return
        reads_lines = bool(attributes[_LOCAL] & termios.ICANON)
        key = attributes[_CHARACTERS][termios.VEOF]
        if (reads_lines or not self._key_typed) and key != b"\0":  # NUL: the command has disabled it
            with suppress(OSError):
                os.write(self.sink, key)
                self._poll_interval = _MIN_POLL_INTERVAL
        self._key_typed = not reads_lines

    def close(self) -> None:
        """Type no more, and leave the terminal to the command and its children; `master` can still be read."""
        super().close()
        self.due = None
        slave, self._slave = self._slave, -1
        if slave >= 0:
            with suppress(OSError):
                os.close(slave)

    def _is_unread(self) -> bool:
        poll = select.poll()
        poll.register(self._slave, select.POLLIN)
        try:
            return bool(poll.poll(0))
        except OSError:  # ENOMEM, for example: the next look will show
            return True
