"""A poll(2) loop: descriptors, and the handler that each of them wakes.

Owned by the keeper's loop. Must not know what the descriptors are.
"""

import select
import time
from collections.abc import Callable

_MAX_TIMEOUT = 86_400.0  # seconds; poll(2) counts milliseconds in an int


class Poller:
    """Watched descriptors, in the order in which they were registered."""

    def __init__(self) -> None:
        """Start with no descriptor."""
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}

    def __contains__(self, descriptor: int) -> bool:
        """Return whether the descriptor is watched."""
        return descriptor in self._handlers

    def watch(self, descriptor: int, handler: Callable[[], None], events: int = select.POLLIN) -> None:
        """Call `handler` whenever the descriptor is ready."""
        self._handlers[descriptor] = handler
        self._poll.register(descriptor, events)

    def modify(self, descriptor: int, events: int) -> None:
        """Wait for other events."""
        self._poll.modify(descriptor, events)

    def unwatch(self, descriptor: int) -> None:
        """Watch the descriptor no more, before it is closed."""
        del self._handlers[descriptor]
        self._poll.unregister(descriptor)

    def run_once(self, deadline: float | None) -> None:
        """Wait until a descriptor is ready, or until `deadline` (time.monotonic()); call the handlers.

        Handlers are called in the order of registration: the server's messages come before the end of a command, so
        that what the server sent before it died still counts.
        """
        timeout = None if deadline is None else min(max(0.0, deadline - time.monotonic()), _MAX_TIMEOUT) * 1000 + 1
        ready = {descriptor for descriptor, _ in self._poll.poll(timeout)}
        for descriptor in [d for d in self._handlers if d in ready]:
            if descriptor in self._handlers:  # an earlier handler may have removed it
                self._handlers[descriptor]()
