"""A service whose wall clock a test can set while it runs."""

import os
import sys
from pathlib import Path

from tests.support.service import Service

DAY = 86_400.0


class ServerClock:
    """The wall clock of one service."""

    def __init__(self, directory: Path, service: Service, name: str = "clock") -> None:
        """Start with the true time; a file of this name in the directory says what is added to it."""
        self._file = directory / f"{name}.seconds"
        self.set(0)
        service.program = [sys.executable, "-m", "tests.support.clocked_server", "serve", "--port", "0"]
        service.environment["SHELLRUNNER_TESTS_CLOCK"] = str(self._file)

    def set(self, seconds: float) -> None:
        """Set it to so many seconds after the true time."""
        self.offset = seconds
        new = self._file.with_suffix(".new")
        new.write_text(str(seconds))
        os.rename(new, self._file)
