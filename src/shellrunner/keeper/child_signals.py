"""SIGCHLD as a descriptor that poll(2) can wait for.

Owned by the keeper's loop, which installs it only for a command that runs for long, or to outlive its children. Must
not know which children there are.
"""

import signal
import socket
from collections.abc import Callable
from contextlib import suppress

from .poller import Poller


class ChildSignals:
    """Calls a handler whenever a child has ended, until it is closed."""

    def __init__(self, poller: Poller, handler: Callable[[], None]) -> None:
        """Install the signal handler, and register with the poller.

        Raises:
            OSError: no descriptors left.
        """
        self._poller, self._handler = poller, handler
        self._reading, self._writing = socket.socketpair()
        self._reading.setblocking(False)
        self._writing.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        poller.watch(self._reading.fileno(), self._wake_up)

    def close(self) -> None:
        """Restore the default action, and close the descriptors."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._poller.unwatch(self._reading.fileno())
        self._reading.close()
        self._writing.close()

    def _wake_up(self) -> None:
        with suppress(BlockingIOError):
            self._reading.recv(4096)
        self._handler()
