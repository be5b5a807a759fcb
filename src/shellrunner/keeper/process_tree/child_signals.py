"""SIGCHLD as a descriptor that poll(2) can wait for, or a look from time to time where there is no descriptor.

Owned by the keeper's loop, which installs it only for a command that runs for long, or to outlive its children. Must
not know which children there are.
"""

import signal
import socket
from collections.abc import Callable
from contextlib import suppress

from ..poller import Poller

_NAME = "children"
_RETRY_DELAY = 0.05  # seconds after a failed read


class ChildSignals:
    """Calls a handler whenever a child has ended, until it is closed."""

    def __init__(self, poller: Poller, handler: Callable[[], None]) -> None:
        """Install the signal handler, and register with the poller."""
        self._poller, self._handler = poller, handler
        self._sockets: tuple[socket.socket, ...] = ()
        try:
            self._install()
        except OSError:  # no descriptors left: it must not end the command whose children these are
            self.close()
            poller.watch_clock(_NAME, handler)

    def close(self) -> None:
        """Restore the default action, and close the descriptors."""
        self._poller.unwatch_clock(_NAME)
        with suppress(OSError):
            signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for end in self._sockets:
            if end.fileno() in self._poller:
                self._poller.unwatch(end.fileno())
            with suppress(OSError):
                end.close()

    def _install(self) -> None:
        self._sockets = reading, writing = socket.socketpair()
        reading.setblocking(False)
        writing.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        self._poller.watch(reading.fileno(), lambda: self._wake_up(reading))

    def _wake_up(self, reading: socket.socket) -> None:
        try:
            reading.recv(4096)
        except BlockingIOError:
            pass
        except OSError:
            self._poller.pause(reading.fileno(), _RETRY_DELAY)
        self._handler()
