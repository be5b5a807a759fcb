"""Take the listening sockets that systemd passes to the service when it starts it (socket activation).

Owned by the service. Must not know jobs, HTTP or SQL. The protocol is sd_listen_fds(3).
"""

import os
import socket
from collections.abc import MutableMapping
from typing import Final

from shellrunner import ascii_text
from shellrunner.errors import ConfigError

_FIRST_PASSED: Final = 3  # SD_LISTEN_FDS_START
_FAMILIES: Final = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)


class PassedUnixSocket(socket.socket):
    """A Unix socket on which systemd listens, and goes on to be who does so.

    Clients ask whose the service is, and the kernel names the process that called listen(2) last: root for a system's
    socket unit. It is no other user's, whatever user the service has.
    """

    def listen(self, backlog: int = 0, /) -> None:
        """Do nothing: the backlog is the socket unit's."""


def passed_sockets(environ: MutableMapping[str, str] = os.environ) -> list[socket.socket]:
    """Return the passed sockets, and take systemd's variables out of the environment.

    No process that is started later inherits either.

    Raises:
        ConfigError: one of them is not a listening stream socket.
    """
    variables = {
        name: environ.pop(name, "") for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
    }
    count = variables["LISTEN_FDS"]
    # The variables may have been inherited, and are then meant for another process.
    ours = variables["LISTEN_PID"] == str(os.getpid()) and ascii_text.is_decimal(count)
    return [_listener(fd) for fd in range(_FIRST_PASSED, _FIRST_PASSED + int(count))] if ours else []


def _listener(fd: int) -> socket.socket:
    try:
        os.set_inheritable(fd, False)
        passed = socket.socket(fileno=fd)
        is_stream = passed.family in _FAMILIES and passed.type == socket.SOCK_STREAM
        is_usable = is_stream and passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        is_usable = False
    if not is_usable:
        raise ConfigError(
            f"systemd passed descriptor {fd}, which cannot accept connections: the socket unit needs "
            "ListenStream= with an address or a path, and Accept=no"
        )
    return PassedUnixSocket(fileno=passed.detach()) if passed.family == socket.AF_UNIX else passed
