"""Keep this process from being looked into by others of its own user: by the commands that it runs, above all.

Called first thing by the command line. Must not know what there is to hide.
"""

import ctypes
from typing import Final

_PR_SET_DUMPABLE: Final = 4


def hide() -> None:
    """Close memory, environment and descriptors of this process to all but root (prctl(2), PR_SET_DUMPABLE).

    It also leaves no core dump. What it execs can be looked into again, until that hides too.
    """
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
