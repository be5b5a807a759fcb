"""The processes that a command left behind, named for the record of its end.

Made by the running command just before it terminates them. Must not know why the command ended.
"""

from collections.abc import Iterable
from typing import Any

from . import Process, describe

_MAX_NAMED = 20


class FoundLeftovers:
    """Processes by what they were when they were found; the first ones with their command lines."""

    def __init__(self, tree: Iterable[Process]) -> None:
        """Look at the processes; one that has ended meanwhile is none."""
        self._commands: dict[Process, str | None] = {}
        for process in tree:
            try:
                self._commands[process] = describe(process.pid) if len(self._commands) < _MAX_NAMED else None
            except OSError:
                continue

    def exclude(self, survivors: Iterable[Process]) -> None:
        """Leave out those that could not be ended."""
        identities = {(process.pid, process.start) for process in survivors}
        self._commands = {p: c for p, c in self._commands.items() if (p.pid, p.start) not in identities}

    def names(self) -> list[str]:
        """Return `command (pid)` of each process that is named."""
        return [f"{command} (pid {process.pid})" for process, command in self._commands.items() if command]

    def members(self) -> dict[str, Any]:
        """Return the members of a slot's end that say it; none if there is no process."""
        if not self._commands:
            return {}
        named = [{"pid": process.pid, "command": command} for process, command in self._commands.items() if command]
        return {"leftovers": named, "leftovers_count": len(self._commands)}
