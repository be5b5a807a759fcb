"""The code with which `run` and `wait` exit: the command's own, or what tells why there is none.

As timeout(1), env(1) and shells have them. Pure functions. Must not know how a job is followed.
"""

import re
import signal
from typing import Any, Final

from shellrunner.model.endings import ENDINGS, NOT_STARTED_EXIT_CODE, OTHER_EXIT_CODE, Ending

OTHERWISE: Final = OTHER_EXIT_CODE
NOT_STARTED: Final = NOT_STARTED_EXIT_CODE
REFUSED: Final = 125  # the service could not be reached, or refused
SIGNALLED: Final = 128  # and the signal's number
INTERRUPTED: Final = SIGNALLED + signal.SIGINT
UNREAD: Final = SIGNALLED + signal.SIGPIPE

_NUMBERED: Final = re.compile(r"SIG(?:RTMIN\+)?([0-9]+)")


def of(end: Any) -> int:
    """The code of a job that is done; `end` has its `ending`, `exit_code` and `signal`."""
    match end["ending"]:
        case Ending.EXITED:
            return int(end["exit_code"])
        case Ending.SIGNALLED:
            return SIGNALLED + _number(end["signal"])
    info = ENDINGS.get(end["ending"])  # None: a newer server's
    return OTHERWISE if info is None or info.exit_code is None else info.exit_code


def _number(name: str) -> int:
    """The signal's number: SIGTERM, SIGRTMIN+3 or SIG33."""
    numbered = _NUMBERED.fullmatch(name)
    if numbered is None:
        return int(signal.Signals[name])
    return int(numbered[1]) + (signal.SIGRTMIN if "+" in name else 0)
