"""Exit codes of the command line; those of `run` and `wait` follow timeout(1), env(1) and shells.

Pure functions. Must not know how a job is followed.
"""

import re
import signal
from typing import Any, Final

from shellrunner.model.endings import ENDINGS, NOT_STARTED_EXIT_CODE, OTHER_EXIT_CODE, Ending

FAILED: Final = 1
USAGE_ERROR: Final = 2  # wrong arguments or configuration

OTHER_ENDING: Final = OTHER_EXIT_CODE
SERVICE_ERROR: Final = 125  # the service could not be reached, or refused the request
NOT_STARTED: Final = NOT_STARTED_EXIT_CODE
SIGNAL_BASE: Final = 128  # plus the number of the signal
INTERRUPTED: Final = SIGNAL_BASE + signal.SIGINT
OUTPUT_CLOSED: Final = SIGNAL_BASE + signal.SIGPIPE

_NUMBERED_SIGNAL: Final = re.compile(r"SIG(?:RTMIN\+)?([0-9]+)")


def exit_code_of_job(end: Any) -> int:
    """Return the exit code for a job that is done; `end` has its `ending`, `exit_code` and `signal`."""
    match end["ending"]:
        case Ending.EXITED:
            return int(end["exit_code"])
        case Ending.SIGNALLED:
            return SIGNAL_BASE + _signal_number(end["signal"])
    info = ENDINGS.get(end["ending"])  # None: an ending of a newer server
    return OTHER_ENDING if info is None or info.exit_code is None else info.exit_code


def _signal_number(name: str) -> int:
    """Return the number of a signal: SIGTERM, SIGRTMIN+3 or SIG33."""
    numbered = _NUMBERED_SIGNAL.fullmatch(name)
    if numbered is None:
        return int(signal.Signals[name])
    return int(numbered[1]) + (signal.SIGRTMIN if "+" in name else 0)
