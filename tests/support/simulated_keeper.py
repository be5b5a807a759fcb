"""A keeper's slot and output files, written in the test's own process by the keeper's own recorder."""

import os
from pathlib import Path
from typing import Any, Self

from shellrunner.keeper.recorder import Recorder
from shellrunner.keeper.slot import DATA_CAPACITY, SlotReader, SlotWriter, slot_name
from shellrunner.model import Volume
from shellrunner.store import Head


class SimulatedKeeper:
    """What a keeper leaves on disk for one job after the other, without a process and without a command."""

    def __init__(self, state_dir: Path, number: int = 1, header: dict[str, Any] | None = None) -> None:
        self.number = number
        self._state = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY)
        self._slots = os.open(state_dir / "slots", os.O_RDONLY | os.O_DIRECTORY)
        self._slot = SlotWriter.create(self._slots, slot_name(number))
        if header is not None:
            self._slot.write_header(header)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the slot's lock and every descriptor."""
        for fd in (self._slot.fd, self._slots, self._state):
            os.close(fd)

    def begin(self, job: int, token: str, limit: int = 1 << 40, attempt: int = 1, **more: Any) -> Recorder:
        """Write a start record, and return the recorder of this job's output."""
        self._slot.begin({"job": job, "token": token, "wall": 1, "attempt": attempt} | more)
        return Recorder(self._slot, self._state, job, token, limit, attempt=attempt)

    def end(self, content: dict[str, Any]) -> None:
        """Write an end into the record of the job that was begun last."""
        assert self._slot.end(content)

    def reader(self) -> SlotReader:
        """Open the slot for reading."""
        return SlotReader(self._slots, slot_name(self.number))

    def record(self, job: int, token: str) -> tuple[Volume, Head]:
        """Return what a supervisor takes from the slot for `finish`."""
        reader = self.reader()
        record = reader.find(job, token)
        assert record is not None
        progress = record.progress
        names = ("stdout", "stderr", "stdout_dropped", "stderr_dropped")
        volume = Volume(*(progress.get(name, 0) for name in names))
        size = min(volume.stored, DATA_CAPACITY)
        head = Head(reader.data(record, 0, size), reader.index(record, progress.get("entries", 0)))
        reader.close()
        return volume, head
