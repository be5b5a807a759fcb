"""A Unix socket's file: never more open than it should be, never taken from somebody who listens, removed at the end.

Owned by `listening`.
"""

import contextlib
import os
import socket
import stat
from collections.abc import Iterator

from shellrunner.errors import ShellrunnerError


@contextlib.contextmanager
def bound(path: str, mode: int) -> Iterator[socket.socket]:
    """Bind a Unix socket there, to which those may connect whom `mode` lets write.

    Raises:
        ShellrunnerError: somebody else has the path.
        OSError: it is not ours to take.
    """
    _clear_the_way(path)
    with socket.socket(socket.AF_UNIX) as listener:
        # bind(2) gives the file the mode of its socket, less the umask: so it is at no moment more open than this.
        os.fchmod(listener.fileno(), mode)
        listener.bind(path)
        ours = os.lstat(path)
        try:
            os.chmod(path, mode)  # what the umask took
            yield listener
        finally:
            with contextlib.suppress(OSError):
                if os.path.samestat(os.lstat(path), ours):
                    os.unlink(path)


def _clear_the_way(path: str) -> None:
    """Remove what a service that was killed left behind."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ShellrunnerError(f"cannot listen on {path}: there is something that is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # it listens, and its queue is full
    raise ShellrunnerError(f"cannot listen on {path}: somebody listens there")
