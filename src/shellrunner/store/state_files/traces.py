"""Traces of the history in its directory: what slots, run files and the high-water mark say about it.

Read at the opening of a history, before anything is changed. Knows names, headers and records; must not know SQL, or
what follows from the traces.
"""

import os
import time
from dataclasses import dataclass, field
from typing import Any, Final

from shellrunner.keeper.identity import ProcessIdentity
from shellrunner.keeper.slot import Record, SlotReader
from shellrunner.store.output import spill
from shellrunner.store.output.spill import SpillFile
from shellrunner.store.state_files import high_water
from shellrunner.store.state_files.high_water import HighWater

_EXIT_TIMEOUT: Final = 2.0  # seconds between the release of an exiting keeper's lock and its end
_POLL_INTERVAL: Final = 0.01


@dataclass(frozen=True, slots=True)
class SlotTrace:
    """A slot: its header, its records, whether its keeper's lock is free, whether the file is a copy of a slot."""

    number: int
    header: dict[str, Any]
    records: list[Record]
    is_free: bool
    is_copy: bool

    @property
    def history(self) -> str:
        """The id of the history that it belongs to."""
        return str(self.header.get("history", ""))

    @property
    def generation(self) -> int:
        """The history's generation when its keeper was made; 0 for a keeper of an earlier version."""
        generation = self.header.get("generation", 0)
        return generation if isinstance(generation, int) else 0


@dataclass(frozen=True, slots=True)
class Traces:
    """What was found in a state directory."""

    mark: HighWater | None = None
    slots: list[SlotTrace] = field(default_factory=list)
    files: list[SpillFile] = field(default_factory=list)

    @property
    def histories(self) -> list[str]:
        """The ids of the histories that are named, the one of the high-water mark first."""
        marked = [self.mark.history] if self.mark and self.mark.history else []
        return list(dict.fromkeys([*marked, *(slot.history for slot in self.slots if slot.history)]))

    def __bool__(self) -> bool:
        """Return whether there is anything that only a history leaves behind."""
        return bool(self.mark or self.slots or self.files)

    def max_id(self) -> int:
        """Return the largest job id that is named."""
        jobs = [record.job for slot in self.slots for record in slot.records]
        return max([self.mark.ids if self.mark else 0, *jobs, *(file.job for file in self.files)])


def read(state_dir: str) -> Traces:
    """Read the traces in a state directory, as far as there are any."""
    return Traces(high_water.read(state_dir), _slots(f"{state_dir}/slots"), spill.find_all(state_dir))


def is_copy(slot: SlotReader, header: dict[str, Any] | None, deadline: float | None = None) -> bool:
    """Return whether this is a copy of a slot: a keeper holds the lock of its own slot for its whole life.

    Waits until `deadline` (time.monotonic()), or for a moment, for a keeper that is exiting: its lock is released
    first.
    """
    try:
        keeper = ProcessIdentity.from_dict(header["identity"]) if header else None
    except (KeyError, TypeError):
        return False
    deadline = time.monotonic() + _EXIT_TIMEOUT if deadline is None else deadline
    while keeper is not None and keeper.is_alive() and slot.keeper_is_gone():
        if time.monotonic() > deadline:
            return True
        time.sleep(_POLL_INTERVAL)
    return False


def _slots(path: str) -> list[SlotTrace]:
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    try:
        stems = [name.removesuffix(".slot") for name in os.listdir(directory) if name.endswith(".slot")]
        deadline = time.monotonic() + _EXIT_TIMEOUT  # for all of them together
        found = [
            _slot(directory, int(stem), deadline) for stem in stems if stem.isdecimal() and stem == str(int(stem))
        ]
        return [slot for slot in found if slot is not None]
    finally:
        os.close(directory)


def _slot(directory: int, number: int, deadline: float) -> SlotTrace | None:
    """Return the slot; None if its header cannot be read, so that it says nothing of which history it is."""
    try:
        slot = SlotReader(directory, f"{number}.slot")
    except FileNotFoundError:
        return None
    try:
        header = slot.header()
        if header is None:
            return None
        return SlotTrace(number, header, slot.records(), slot.keeper_is_gone(), is_copy(slot, header, deadline))
    finally:
        slot.close()
