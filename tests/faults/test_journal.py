"""The audit log in the journal of a real systemd."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "try_journal.sh"
pytestmark = [pytest.mark.soak, pytest.mark.usefixtures("root")]  # it installs a Debian, for many minutes


@pytest.mark.timeout(1800)
def test_a2_the_journal_loses_no_line(need: Callable[[bool, str], None]) -> None:
    """A2: under the shipped unit each of 1,000 accepted requests beside 90,000 refused ones is in the journal.

    In a booted Debian, whose journald would otherwise keep some hundred lines of each 30 s, as the same script shows.
    """
    for tool in ("systemd-nspawn", "debootstrap"):
        need(shutil.which(tool) is not None, f"needs {tool}")
    done = subprocess.run([SCRIPT], capture_output=True, text=True, timeout=1700, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert "== everything works" in done.stdout
