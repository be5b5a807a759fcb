"""Hosts as plain values: the server processes that open one history, and what this one is.

Part of the store's contract, kept by every back end: a history in SQLite has one host, which is itself. Must not know
SQL or HTTP.
"""

from dataclasses import dataclass
from typing import NamedTuple

from shellrunner.clock import Millis


class ThisHost(NamedTuple):
    """The host that opens the history, as config says. slots: how many jobs it runs at once."""

    name: str = "localhost"
    version: str = ""
    slots: int = 0


@dataclass(frozen=True, slots=True)
class Host:
    """A host of the history.

    queues: from which it runs jobs, by name (None: from all). slots: how many it runs at once. running: how many run
    there by the history. free: how many more it would start now. claims: whether it runs any at all (else it only
    answers). draining: it starts no more jobs until it is resumed. reachable: its lease has not expired; else its
    running jobs are not judged before there is proof, and `seen` is since when nothing is known of it. joined: when
    the history knew it first. is_this: it is the one that answers.
    """

    name: str
    version: str
    queues: tuple[str, ...] | None
    slots: int
    running: int
    free: int
    claims: bool
    draining: bool
    reachable: bool
    seen: Millis
    joined: Millis
    is_this: bool
