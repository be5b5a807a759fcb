"""Notify systemd of the service's state.

Owned by the service. Must not know jobs, HTTP or SQL. The protocol is sd_notify(3): datagrams of `KEY=value` lines to
the socket that NOTIFY_SOCKET names.
"""

import contextlib
import os
import socket
from collections.abc import MutableMapping
from typing import Self

from shellrunner import ascii_text

_SEND_TIMEOUT = 1.0  # seconds to wait for systemd to take a message; the event loop waits meanwhile


class Notifier:
    """Sends notifications to systemd; without systemd, every method does nothing."""

    def __init__(self, address: str | None = None, watchdog_interval: float | None = None) -> None:
        """Send to `address` (as in NOTIFY_SOCKET); call `watchdog` every `watchdog_interval` seconds."""
        self.watchdog_interval = watchdog_interval
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(_SEND_TIMEOUT)

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] = os.environ) -> Self:
        """Take systemd's variables out of the environment, so that no process started later can notify for us."""
        address = environ.pop("NOTIFY_SOCKET", None)
        timeout = environ.pop("WATCHDOG_USEC", "")
        # sd_watchdog_enabled(3): the variables may have been inherited, and are then meant for another process.
        ours = environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        interval = int(timeout) / 1_000_000 / 2 if ours and ascii_text.is_decimal(timeout) and int(timeout) else None
        return cls(address, interval)

    def ready(self, status: str = "") -> None:
        """Report that the service has started; `systemctl status` shows `status`."""
        self._send(READY=1, STATUS=status)

    def status(self, status: str) -> None:
        """Have `systemctl status` show this, before the service has started."""
        self._send(STATUS=status)

    def stopping(self, status: str = "") -> None:
        """Report that the service is stopping."""
        self._send(STOPPING=1, STATUS=status)

    def extend_timeout(self, seconds: float) -> None:
        """Request so much more time, from now, to start or stop; without it, systemd would end the service."""
        self._send(EXTEND_TIMEOUT_USEC=int(seconds * 1_000_000))

    def watchdog(self) -> None:
        """Report that the service is alive."""
        self._send(WATCHDOG=1)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _send(self, **variables: object) -> None:
        if not self._address:
            return
        text = "".join(
            f"{key}={' '.join(str(value).splitlines())}\n" for key, value in variables.items() if value != ""
        )
        # unix(7): an address that begins with a NUL is abstract; sd_notify(3) writes that as "@".
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError):  # systemd has timeouts of its own for missing notifications
            self._socket.sendto(text.encode(), address)
