"""A server in which syncs of the history's write-ahead log fail with EIO, as on a failing disk."""

import subprocess
from pathlib import Path
from typing import Self

from tests.support.service import Service

_SOURCE = Path(__file__).with_suffix(".c")


class FailingSyncs:
    """The next syncs of one server that will fail."""

    def __init__(self, directory: Path) -> None:
        self._control = directory / "failing-syncs"
        self._control.touch()
        self._library = directory / "failing_syncs.so"

    def build(self) -> Self:
        """Compile the library."""
        command = ["gcc", "-shared", "-fPIC", "-O1", "-o", str(self._library), str(_SOURCE), "-ldl"]
        subprocess.run(command, check=True)
        return self

    def preload(self, service: Service) -> None:
        """Start this service with the library from now on."""
        service.environment |= {"LD_PRELOAD": str(self._library), "FAILING_SYNCS": str(self._control)}
        service.real_exec = True

    def arm(self, number: int) -> None:
        """Let so many syncs fail."""
        self._control.write_bytes(b"x" * number)
