"""How a job stands, as a word or two with its colour. Used by lists and `show`."""

from typing import Any, Final

from shellrunner.cli.ui.table import Cell
from shellrunner.model.endings import ENDINGS, Ending, Tone, tone_of

_STATES: Final = {"waiting": "dim", "queued": "yellow", "running": "cyan"}
_TONES: Final = {Tone.SUCCESS: "green", Tone.FAILURE: "red", Tone.STOPPED: "yellow", Tone.UNKNOWN: "red"}


def standing(status: Any) -> Cell:
    """`status` has its `state`, `cancelling`, `ending`, `exit_code` and `signal`."""
    ending = status["ending"]
    if ending is None:
        return Cell("ending", "magenta") if status["cancelling"] else _known(status["state"])
    colour = _TONES[tone_of(ending, status["exit_code"])]
    if ending == Ending.EXITED:
        return Cell(f"exited {status['exit_code']}", colour)
    if ending == Ending.SIGNALLED:
        return Cell(status["signal"], colour)
    info = ENDINGS.get(ending)  # None: a newer server's
    return Cell(info.label if info else ending.replace("_", " "), colour)


def _known(state: str) -> Cell:
    return Cell(state, _STATES.get(state, ""))
