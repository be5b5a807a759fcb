"""Ctrl-C while the command line is being loaded: it ends the process at once.

Python raises KeyboardInterrupt wherever it is, and in a callback of an import or in a finalizer that is printed and
ignored, so that the verb would run all the same. Nothing has been begun by then. Must not know what is loaded.
"""

import os
import signal
from types import FrameType
from typing import Final

_EXIT_CODE: Final = 128 + signal.SIGINT


def exit_at_once() -> None:
    """Exit on SIGINT from now on, unless it is ignored (`nohup`, `&`)."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)


def raise_again() -> None:
    """Raise KeyboardInterrupt on SIGINT again, if `exit_at_once` has changed that."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit(_signum: int, _frame: FrameType | None) -> None:
    os._exit(_EXIT_CODE)
