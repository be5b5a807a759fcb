"""The code with which `run` and `wait` exit: the command's own, or what tells why there is none.

As timeout(1), env(1) and shells have them. Pure functions. Must not know how a job is followed.
"""

import re
import signal
from typing import Any, Final

OTHERWISE: Final = 123  # it ended without a code of its own: cancelled, skipped, lost, …
TIMED_OUT: Final = 124
REFUSED: Final = 125  # the service could not be reached, or refused
NOT_STARTED: Final = 126
SIGNALLED: Final = 128  # and the signal's number
INTERRUPTED: Final = SIGNALLED + signal.SIGINT
UNREAD: Final = SIGNALLED + signal.SIGPIPE

_NUMBERED: Final = re.compile(r"SIG(?:RTMIN\+)?([0-9]+)")


def of(end: Any) -> int:
    """The code of a job that is done; `end` has its `ending`, `exit_code` and `signal`."""
    match end["ending"]:
        case "exited":
            return int(end["exit_code"])
        case "signalled":
            return SIGNALLED + _number(end["signal"])
        case "timed_out":
            return TIMED_OUT
        case "failed_to_start":
            return NOT_STARTED
    return OTHERWISE


def _number(name: str) -> int:
    """The signal's number: SIGTERM, SIGRTMIN+3 or SIG33."""
    numbered = _NUMBERED.fullmatch(name)
    if numbered is None:
        return int(signal.Signals[name])
    return int(numbered[1]) + (signal.SIGRTMIN if "+" in name else 0)
