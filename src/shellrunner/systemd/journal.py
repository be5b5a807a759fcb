"""Whether journald may drop lines of this process, because its unit writes many of them.

Used by the service at its start. systemd writes the settings of each unit that concern journald to
/run/systemd/units, where journald reads them; without them the limits of journald.conf apply.
"""

import os
import re
from pathlib import Path
from typing import Final

_MAX_INTERVAL: Final = 1000  # microseconds: in so short a time no unit writes enough lines


def rate_limited_unit(
    cgroup: Path = Path("/proc/self/cgroup"), units: Path = Path("/run/systemd/units")
) -> str | None:
    """Return the unit of this process if journald limits how many lines it writes, as far as that is known."""
    unit = _system_unit(cgroup)
    try:
        interval = int(os.readlink(units / f"log-rate-limit-interval:{unit}"))
    except (OSError, ValueError):  # as by default; 0 is not written there, and so has no effect
        return unit
    return unit if interval > _MAX_INTERVAL else None


def _system_unit(cgroup: Path) -> str:
    """Return the unit to which journald counts this process: of the system's manager, such as user@1000.service."""
    try:
        found = re.search(r"^(?:0:|[0-9]+:name=systemd):(.*)$", cgroup.read_text(errors="replace"), re.MULTILINE)
    except OSError:
        found = None
    parts = found[1].split("/") if found else []
    return next((part for part in parts if part and not part.endswith(".slice")), "the unit")
