"""Signals of a server that is still starting: a stop request ends it with success, a reload request is kept.

Installed before anything else is imported, which takes half a second in which the default action would kill. Nothing
has been created by then, so the process simply exits. Must not know what is started.
"""

import contextlib
import os
import select
import signal
import time
from types import FrameType
from typing import Final

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_reload_requests: list[int] = []


def handle() -> None:
    """Exit with 0 on SIGTERM and SIGINT, and take note of SIGHUP, until others handle them."""
    for signum in STOP_SIGNALS:
        signal.signal(signum, _exit)
    signal.signal(signal.SIGHUP, _note_reload)


def take_reload_request() -> bool:
    """Return whether SIGHUP has arrived since `handle`, or since the last call."""
    was_requested = bool(_reload_requests)
    _reload_requests.clear()
    return was_requested


def ignore() -> None:
    """Ignore all three while the process exits: its exit status is decided."""
    for signum in (*STOP_SIGNALS, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)


def _exit(signum: int, _: FrameType | None) -> None:
    _write_line(signal.Signals(signum).name)
    os._exit(0)  # not by an exception: an import or a finalizer may swallow it


def _note_reload(signum: int, _: FrameType | None) -> None:
    _reload_requests.append(signum)


def _write_line(signal_name: str) -> None:
    """Write the line that `log` would write if it were loaded."""
    seconds, nanos = divmod(time.time_ns(), 1_000_000_000)
    now = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanos // 1_000_000:03}Z"
    head = f'{{"time":"{now}","level":"info","event":"stopped before the start was complete"'
    line = f'{head},"logger":"shellrunner.service","signal":"{signal_name}"}}\n'
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    with contextlib.suppress(OSError):  # closed, or full
        if poll.poll(0):
            os.write(2, line.encode())
