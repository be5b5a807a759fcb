"""Protect this process from inspection by other processes of its user, above all by the commands that it runs.

Called first by the command line. Must not know what there is to protect.
"""

import ctypes
from typing import Final

_PR_SET_DUMPABLE: Final = 4


def deny_inspection() -> None:
    """Make memory, environment and descriptors of this process accessible to root only (PR_SET_DUMPABLE in prctl(2)).

    It also disables core dumps. A program that it execs is accessible again, until that program calls this too.
    """
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
