"""The sockets that systemd listens on for the service, and passes to it at its start.

Owned by the service. Must not know jobs, HTTP or SQL. The protocol is sd_listen_fds(3).
"""

import os
import socket
from collections.abc import MutableMapping
from typing import Final

from shellrunner.errors import ConfigError

_FIRST_PASSED: Final = 3  # SD_LISTEN_FDS_START
_FAMILIES: Final = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)


def passed_sockets(environ: MutableMapping[str, str] = os.environ) -> list[socket.socket]:
    """Take the sockets that systemd listens on for us; what it says of them is taken out of the environment.

    Nothing that is started later inherits them. The protocol is sd_listen_fds(3).

    Raises:
        ConfigError: one of them is no socket that connections can be accepted from.
    """
    said = {name: environ.pop(name, "") for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID")}
    count = said["LISTEN_FDS"]
    # The variables may have been inherited, and are then meant for another process.
    ours = said["LISTEN_PID"] == str(os.getpid()) and count.isdecimal()
    return [_listener(fd) for fd in range(_FIRST_PASSED, _FIRST_PASSED + int(count))] if ours else []


def _listener(fd: int) -> socket.socket:
    try:
        os.set_inheritable(fd, False)
        passed = socket.socket(fileno=fd)
        is_stream = passed.family in _FAMILIES and passed.type == socket.SOCK_STREAM
        is_fit = is_stream and passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        is_fit = False
    if not is_fit:
        raise ConfigError(
            f"systemd passed descriptor {fd}, on which no connection can be accepted: the socket unit needs "
            "ListenStream= with an address or a path, and Accept=no"
        )
    return passed
