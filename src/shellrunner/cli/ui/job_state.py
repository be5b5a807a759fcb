"""How a job stands, as a word or two with its colour. Used by lists and `show`."""

from typing import Any, Final

from shellrunner.cli.ui.table import Cell

_STATES: Final = {"waiting": "dim", "queued": "yellow", "running": "cyan"}
_ENDINGS: Final = {"cancelled": "yellow", "skipped": "yellow"}


def standing(status: Any) -> Cell:
    """`status` has its `state`, `cancelling`, `ending`, `exit_code` and `signal`."""
    ending = status["ending"]
    if ending is None:
        return Cell("ending", "magenta") if status["cancelling"] else _known(status["state"])
    if ending == "exited":
        return Cell(f"exited {status['exit_code']}", "red" if status["exit_code"] else "green")
    if ending == "signalled":
        return Cell(status["signal"], "red")
    return Cell(ending.replace("_", " "), _ENDINGS.get(ending, "red"))


def _known(state: str) -> Cell:
    return Cell(state, _STATES.get(state, ""))
