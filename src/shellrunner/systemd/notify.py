"""What systemd is told while the service runs.

Owned by the service. Must not know jobs, HTTP or SQL.
The protocol is sd_notify(3): datagrams of `KEY=value` lines to the socket that NOTIFY_SOCKET names.
"""

import contextlib
import os
import socket
from collections.abc import MutableMapping
from typing import Self

PATIENCE = 1.0  # seconds to wait for systemd to take a note: never so long that the service's own work stands still


class Notifier:
    """Tells systemd how the service is; without systemd, all of it does nothing."""

    def __init__(self, address: str | None = None, watchdog_interval: float | None = None) -> None:
        """`address` as in NOTIFY_SOCKET; `watchdog_interval` is how often to call `watchdog`, in seconds."""
        self.watchdog_interval = watchdog_interval
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(PATIENCE)

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] = os.environ) -> Self:
        """Take what systemd left in the environment out of it, so that nothing started later can speak for us."""
        address = environ.pop("NOTIFY_SOCKET", None)
        timeout = environ.pop("WATCHDOG_USEC", "")
        # sd_watchdog_enabled(3): the variables may have been inherited, and are then meant for another process.
        ours = environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        interval = int(timeout) / 1_000_000 / 2 if ours and timeout.isdecimal() and int(timeout) else None
        return cls(address, interval)

    def ready(self, status: str = "") -> None:
        """The service has started; `status` is what `systemctl status` then shows."""
        self._send(READY=1, STATUS=status)

    def stopping(self, status: str = "") -> None:
        """The service has begun to stop."""
        self._send(STOPPING=1, STATUS=status)

    def extend(self, seconds: float) -> None:
        """Starting or stopping needs so much more time from now on: without this, systemd would end it."""
        self._send(EXTEND_TIMEOUT_USEC=int(seconds * 1_000_000))

    def watchdog(self) -> None:
        """The service is alive."""
        self._send(WATCHDOG=1)

    def close(self) -> None:
        """Say nothing more."""
        self._socket.close()

    def _send(self, **note: object) -> None:
        if not self._address:
            return
        text = "".join(f"{key}={' '.join(str(value).splitlines())}\n" for key, value in note.items() if value != "")
        # unix(7): an address that begins with a NUL is abstract; sd_notify(3) writes that as "@".
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError):  # systemd has its own timeouts for a service that it does not hear
            self._socket.sendto(text.encode(), address)
