"""Errors as answers to orders, and back: the one who asks gets the error that the host has raised."""

from collections.abc import Mapping
from typing import Any, Final

from shellrunner.errors import (
    BeingEnded,
    InputClosed,
    InputFull,
    KeeperSilent,
    NoSuchJob,
    NoSuchKeeper,
    NoTerminal,
    NotRunning,
    ShellrunnerError,
    StoreUnavailable,
    WrongOffset,
)

_KNOWN: Final[Mapping[str, type[ShellrunnerError]]] = {
    error.code: error
    for error in (
        BeingEnded,
        InputClosed,
        InputFull,
        KeeperSilent,
        NoSuchJob,
        NoSuchKeeper,
        NoTerminal,
        NotRunning,
        StoreUnavailable,
        WrongOffset,
    )
}


def to_answer(error: ShellrunnerError) -> dict[str, Any]:
    """Return the answer that says that the order was refused."""
    return {"refused": error.code, "detail": error.detail, "members": error.members}


def raise_refusal(answer: Mapping[str, Any]) -> None:
    """Raise the error with which the order was refused, if it was."""
    if (code := answer.get("refused")) is None:
        return
    kind = _KNOWN.get(code, ShellrunnerError)
    error = kind.__new__(kind)
    ShellrunnerError.__init__(error, answer["detail"], **answer["members"])
    raise error
