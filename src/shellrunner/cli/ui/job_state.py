"""The state or ending of a job as a short coloured text, for lists and `show`. Must not know tables' layout."""

from typing import Any, Final

from shellrunner.cli.ui.table import Cell
from shellrunner.model.endings import ENDINGS, Ending, Tone, tone_of

_STATE_STYLES: Final = {
    "waiting": "dim", "held": "yellow", "queued": "yellow", "running": "cyan", "paused": "yellow",
    "cancelling": "magenta", "unreachable": "red",
}  # fmt: skip
_TONE_STYLES: Final = {Tone.SUCCESS: "green", Tone.FAILURE: "red", Tone.STOPPED: "yellow", Tone.UNKNOWN: "red"}


def state_cell(status: Any) -> Cell:
    """Return the cell for a status, which has `state`, `cancelling`, `ending`, `exit_code` and `signal`."""
    ending = status["ending"]
    if ending is None:
        state = _shown_state(status)
        return Cell(state, _STATE_STYLES.get(state, ""))
    style = _TONE_STYLES[tone_of(ending, status["exit_code"])]
    if ending == Ending.EXITED:
        return Cell(f"exited {status['exit_code']}", style)
    if ending == Ending.SIGNALLED:
        return Cell(status["signal"], style)
    info = ENDINGS.get(ending)  # None: an ending of a newer server
    return Cell(info.label if info else ending.replace("_", " "), style)


def _shown_state(status: Any) -> str:
    """Return the state, or what is more to the point; an older server knows none of the other keys."""
    if status.get("unreachable"):
        return "unreachable"
    if status["cancelling"]:
        return "cancelling"
    if status.get("paused"):
        return "paused"
    return "held" if (status.get("pending") or {}).get("reason") == "held" else str(status["state"])
