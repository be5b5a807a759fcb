"""A poll(2) loop: descriptors, and the handler that each of them wakes.

Owned by the keeper's loop. Must not know what the descriptors are. A handler must not rely on there being something
to do: where poll(2) itself fails, all are called in turn.
"""

import select
import time
from collections.abc import Callable

_MAX_TIMEOUT = 86_400.0  # seconds; poll(2) counts milliseconds in an int
_POLL_INTERVAL = 0.05  # seconds between calls of a handler for which there is no descriptor

Handler = Callable[[], object]


class Poller:
    """Watched descriptors, in the order in which they were registered."""

    def __init__(self) -> None:
        """Start with no descriptor."""
        self._poll = select.poll()
        self._handlers: dict[int, Handler] = {}
        self._events: dict[int, int] = {}
        self._resume_at: dict[int, float] = {}  # paused descriptors
        self._polled: dict[str, Handler] = {}
        self._next_poll = 0.0
        self.is_guessing = False  # poll(2) failed: handlers are called without knowing that there is something to do

    def __contains__(self, descriptor: int) -> bool:
        """Return whether the descriptor is watched."""
        return descriptor in self._handlers

    def watch(self, descriptor: int, handler: Handler, events: int = select.POLLIN) -> None:
        """Call `handler` whenever the descriptor is ready."""
        self._handlers[descriptor], self._events[descriptor] = handler, events
        self._poll.register(descriptor, events)

    def watch_clock(self, name: str, handler: Handler) -> None:
        """Call `handler` again and again: the descriptor that would wake it could not be opened."""
        self._polled[name] = handler
        self._next_poll = 0.0

    def modify(self, descriptor: int, events: int) -> None:
        """Wait for other events."""
        if self._events[descriptor] == events:
            return
        self._events[descriptor] = events
        if descriptor not in self._resume_at:
            self._poll.modify(descriptor, events)

    def pause(self, descriptor: int, seconds: float) -> None:
        """Leave the descriptor out for so many seconds: it is ready, but what it is ready for has just failed."""
        if descriptor not in self._resume_at:
            self._poll.unregister(descriptor)
        self._resume_at[descriptor] = time.monotonic() + seconds

    def unwatch(self, descriptor: int) -> None:
        """Watch the descriptor no more, before it is closed."""
        del self._handlers[descriptor], self._events[descriptor]
        if self._resume_at.pop(descriptor, None) is None:
            self._poll.unregister(descriptor)

    def unwatch_clock(self, name: str) -> None:
        """Call this handler no more; does nothing if it is not watched."""
        self._polled.pop(name, None)

    def run_once(self, deadline: float | None) -> None:
        """Wait until a descriptor is ready, or until `deadline` (time.monotonic()); call the handlers.

        Handlers are called in the order of registration: the server's messages come before the end of a command, so
        that what the server sent before it died still counts.
        """
        if self._polled or self._resume_at:
            deadline = self._next_deadline(deadline)
        timeout = None if deadline is None else min(max(0.0, deadline - time.monotonic()), _MAX_TIMEOUT) * 1000 + 1
        try:
            ready = {descriptor for descriptor, _ in self._poll.poll(timeout)}
            self.is_guessing = False
        except OSError:  # ENOMEM, for example: perhaps any of them is ready
            time.sleep(_POLL_INTERVAL)
            self.is_guessing = True
            ready = self._handlers.keys() - self._resume_at.keys()
        for descriptor in [d for d in self._handlers if d in ready]:
            if descriptor in self._handlers:  # an earlier handler may have removed it
                self._handlers[descriptor]()
        if self._polled or self._resume_at:
            self._handle_clock(time.monotonic())

    def _next_deadline(self, deadline: float | None) -> float:
        moments = [*self._resume_at.values()]
        if deadline is not None:
            moments.append(deadline)
        if self._polled:
            moments.append(self._next_poll)
        return min(moments)

    def _handle_clock(self, now: float) -> None:
        for descriptor in [d for d, moment in self._resume_at.items() if now >= moment]:
            del self._resume_at[descriptor]
            self._poll.register(descriptor, self._events[descriptor])
        if now >= self._next_poll:
            self._next_poll = now + _POLL_INTERVAL
            for name, handler in list(self._polled.items()):
                if name in self._polled:
                    handler()
