"""What the other nodes report: a connection that LISTENs, on a thread of its own.

Owned by the store. What was sent while the connection was lost is made up for by one call that says so. Must not
know what follows from a notification.
"""

import asyncio
import contextlib
import json
import os
import select
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import psycopg
from psycopg import sql

from shellrunner.store.postgres.engine.connection_thread import connect

_PROBE_INTERVAL: Final = 10.0  # seconds without a notification after which the connection is tried
_STOP_TIMEOUT: Final = 2.0  # seconds: a server that hangs keeps the thread, which is a daemon
_RECONNECT_DELAY: Final = 0.5

OnNote = Callable[[dict[str, Any]], None]


class Listener:
    """Calls `on_note` on the event loop with each notification, and `on_gap` when some may have been missed."""

    def __init__(self, url: str, channels: Sequence[str], on_note: OnNote, on_gap: Callable[[], None]) -> None:
        self._url, self._channels = url, channels
        self._on_note, self._on_gap = on_note, on_gap
        self._loop = asyncio.get_running_loop()
        self._is_ending, self._has_begun = threading.Event(), asyncio.Event()
        self._wakes, self._wake = os.pipe2(os.O_CLOEXEC)  # the thread waits for this and for the server
        self._thread = threading.Thread(target=self._run, name="store-listener", daemon=True)

    async def start(self) -> None:
        """Begin to listen; return once it does, or once that has failed and is tried again."""
        self._thread.start()
        await self._has_begun.wait()

    async def stop(self) -> None:
        """End the thread."""
        if self._thread.ident is None:  # not started, as the opening has failed
            self._close()
            return
        os.write(self._wake, b"\0")  # before the thread may end, and close it
        self._is_ending.set()
        await asyncio.to_thread(self._thread.join, _STOP_TIMEOUT)

    def _run(self) -> None:
        is_first = True
        while not self._is_ending.is_set():
            with contextlib.suppress(psycopg.Error, OSError):
                self._listen(is_first=is_first)
            is_first = False
            self._call(self._has_begun.set)
            self._is_ending.wait(_RECONNECT_DELAY)
        self._close()

    def _close(self) -> None:
        os.close(self._wake)
        os.close(self._wakes)

    def _listen(self, *, is_first: bool) -> None:
        with connect(self._url) as connection:
            for channel in self._channels:
                connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            if not is_first:
                self._call(self._on_gap)
            self._call(self._has_begun.set)
            poller = select.poll()
            for descriptor in (connection.fileno(), self._wakes):
                poller.register(descriptor, select.POLLIN)
            while not self._is_ending.is_set():
                for note in connection.notifies(timeout=0):
                    self._received(note.payload)
                if not poller.poll(1000 * _PROBE_INTERVAL):
                    connection.execute("SELECT 1")  # a server that is gone is noticed

    def _received(self, payload: str) -> None:
        try:
            content = json.loads(payload)
        except ValueError:  # not ours
            return
        if isinstance(content, dict):
            self._call(lambda: self._on_note(content))

    def _call(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(function)
