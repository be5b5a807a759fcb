"""Bind a Unix socket: never with more permissions than configured, never in place of a live listener.

Owned by `listening`. Must not know what is served on it.
"""

import contextlib
import os
import socket
import stat
from collections.abc import Iterator

from shellrunner.errors import ShellrunnerError


@contextlib.contextmanager
def bound(path: str, mode: int) -> Iterator[socket.socket]:
    """Bind a Unix socket at `path`; users with write permission by `mode` may connect (unix(7)).

    Its file is removed at the end, unless it has been replaced.

    Raises:
        ShellrunnerError: the path is in use.
        OSError: the socket cannot be created there.
    """
    _remove_stale(path)
    with socket.socket(socket.AF_UNIX) as listener:
        # bind(2) gives the file the mode of its socket, less the umask: at no moment are there more permissions.
        os.fchmod(listener.fileno(), mode)
        listener.bind(path)
        ours = os.lstat(path)
        try:
            os.chmod(path, mode)  # what the umask removed
            yield listener
        finally:
            with contextlib.suppress(OSError):
                if os.path.samestat(os.lstat(path), ours):
                    os.unlink(path)


def _remove_stale(path: str) -> None:
    """Remove the socket file that a killed service left behind."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ShellrunnerError(f"cannot listen on {path}: the file there is not a socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # it listens, and its queue is full
    raise ShellrunnerError(f"cannot listen on {path}: another process listens there")
