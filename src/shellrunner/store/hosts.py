"""Hosts: the server processes that open one history, what this one is, and orders from one to another.

Part of the store's contract, kept by every back end: a history in SQLite has one host, which is itself. An order says
what a host is to do to a command that it runs, or asks what it knows of its commands. It is carried out at most once,
under the token of the job's claim; what carries them out is `host_control`. Must not know SQL or HTTP.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple, Protocol

from shellrunner.clock import Millis
from shellrunner.model import CommandState

TIMEOUT: Final = 10.0  # seconds for a host to answer, as for a keeper; an order that is older is not carried out

Answer = Mapping[str, Any]  # a JSON object


class ThisHost(NamedTuple):
    """The host that opens the history, as config says. slots: how many jobs it runs at once."""

    name: str = "localhost"
    version: str = ""
    slots: int = 0


@dataclass(frozen=True, slots=True)
class Host:
    """A host of the history.

    queues: from which it runs jobs, by name (None: from all). slots: how many it runs at once. running: how many run
    there by the history. unsettled: how many commands of jobs that are lost, or deleted since, may still run there,
    as nothing was reported of them yet. free: how many more it would start now. claims: whether it runs any at all
    (else it only answers). draining: it starts no more jobs until it is resumed. reachable: its lease has not
    expired; else its running jobs are not judged before there is proof, and `seen` is since when nothing is known of
    it. stopped: it is not reachable, as its server was stopped, and left nothing running. joined: when the history
    knew it first. is_this: it is the one that answers. differing: which of its settings are not those of that one,
    although all hosts must have the same.
    """

    name: str
    version: str
    queues: tuple[str, ...] | None
    slots: int
    running: int
    unsettled: int
    free: int
    claims: bool
    draining: bool
    reachable: bool
    stopped: bool
    seen: Millis
    joined: Millis
    is_this: bool
    differing: tuple[str, ...] = ()


class OrderKind(StrEnum):
    """What is to be done."""

    SIGNAL = "signal"
    PAUSE = "pause"
    RESUME = "resume"
    RESIZE = "resize"
    INPUT = "input"
    USAGE = "usage"  # of one job, or of all that the host runs
    KEEPERS = "keepers"
    END_KEEPER = "end-keeper"


STATE_CHANGES: Final = frozenset({OrderKind.PAUSE, OrderKind.RESUME, OrderKind.RESIZE})


@dataclass(frozen=True, slots=True)
class HostOrder:
    """An order to this host. job_id, token: the claim that it is about; None: it is about no job in particular."""

    kind: OrderKind
    content: Mapping[str, Any] = field(default_factory=dict)
    data: bytes = b""
    job_id: int | None = None
    token: str | None = None


class CommandHost(Protocol):
    """What carries out orders at the host that runs the jobs."""

    async def carry_out(self, order: HostOrder, /) -> Answer:
        """Carry out an order; what it refuses, it says in the answer."""

    def command_state(self, job_id: int, /) -> CommandState | None:
        """Return what is known of the command of a job that this host runs; None if it does not run it (yet)."""


class WriterLeases(Protocol):
    """Which client types into a job, over all nodes. May raise `StoreUnavailable`."""

    async def acquire(self, job_id: int, name: str, *, take: bool, keep: bool) -> bool:
        """Make a client the writer of a job, if it is to `keep` that; return False if another one is.

        With `take` it replaces the other one.
        """

    def release(self, job_id: int, name: str) -> None:
        """Let the job have no writer, if this client is it."""


class HostOrders(Protocol):
    """Orders to other hosts. May raise `StoreUnavailable`."""

    async def ask(
        self, job_id: int, kind: OrderKind, content: Mapping[str, Any] | None = None, data: bytes = b""
    ) -> Answer | None:
        """Have the host that runs the job carry out an order; return its answer. None: that host is this one.

        Raises:
            NoSuchJob: never accepted, or deleted.
            NotRunning: it waits, is queued or done.
            KeeperSilent: the host does not answer, or has been restarted while it carried out the order.
        """

    async def ask_host(self, host: str, kind: OrderKind, content: Mapping[str, Any] | None = None) -> Answer | None:
        """Have one host carry out an order that is about no job; None: it does not answer."""

    async def ask_all(self, kind: OrderKind) -> Mapping[str, Answer]:
        """Have every other host that can be reached carry out an order; return the answers that came, by host."""

    @property
    def host(self) -> str:
        """The name of this host."""

    @property
    def writers(self) -> WriterLeases:
        """Who types into which job."""

    def command_state(self, job_id: int, claimed: Millis, /) -> CommandState:
        """Return what is known here of a command that another host runs, beside the history: of the claim of then."""

    async def serve(self, host: CommandHost, /) -> None:
        """Let `host` carry out the orders to this host, until it is cancelled."""
