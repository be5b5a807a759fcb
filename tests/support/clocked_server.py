"""`shellrunner` with a wall clock that a test sets: SHELLRUNNER_TESTS_CLOCK names a file with the seconds to add.

Only the server's own clock is set; keepers and commands have the true one, and the boot clock is true everywhere.
"""

import os
import time
from pathlib import Path

from shellrunner import clock
from shellrunner.cli import main

_FILE = Path(os.environ.pop("SHELLRUNNER_TESTS_CLOCK"))


def _wall_ns() -> int:
    return time.time_ns() + round(float(_FILE.read_text()) * 1_000_000_000)


if __name__ == "__main__":
    clock._wall_ns = _wall_ns
    main()
