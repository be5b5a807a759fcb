"""Plain values of the store's contract that belong to no larger concept.

Kept by every back end. Must not know SQL or HTTP.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from shellrunner.clock import Millis
from shellrunner.model import Job, JobSpec, Submitter


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """An Idempotency-Key: the identity that sent it, the key, and a digest of the request body that came with it."""

    identity: str
    key: str
    digest: bytes


class HistoryIdentity(NamedTuple):
    """Which history this is, and how far it has come: every slot carries it, and each command's mark has the home.

    history_id: random, 32 hex digits. generation: grows with each start. home: the directory; empty if it is unknown.
    """

    history_id: str
    generation: int
    home: str = ""


class SlotClaim(NamedTuple):
    """A claim whose end is in the slot of a keeper."""

    job_id: int
    token: str
    keeper: int


@dataclass(frozen=True, slots=True)
class JobEdit:
    """A job's specification is to be changed from `before` to `after`, without secrets both.

    by: who asks for it; it may wait only for jobs that this identity may see.
    """

    job_id: int
    before: JobSpec
    after: JobSpec
    by: Submitter | None = None


class DeleteCount(NamedTuple):
    """How many of the matching jobs were deleted, and how many were left because they are not done."""

    deleted: int
    not_done: int


@dataclass(frozen=True, slots=True)
class DueCallback:
    """A result that is to be sent now: how many tries have failed, and when it first became due."""

    job: Job
    tries: int
    since: Millis


@dataclass(frozen=True, slots=True)
class Retention:
    """Limits of the history; None is without limit. `days`: age of done jobs; `jobs`: done jobs; `bytes`: output."""

    days: float | None = None
    jobs: int | None = None
    bytes: int | None = None


@dataclass(slots=True)
class HistorySize:
    """How many done jobs the history holds, and how many bytes of output they wrote."""

    jobs: int
    bytes: int


class ClusterFigures(NamedTuple):
    """Counts of one node of several, since its start.

    hosts: by state (`open`, `drained`, `api_only`, `stopped`, `unreachable`), as this node has read them with its
    lease. lease_age: seconds since it renewed that. is_available: the database could be written when that was tried
    last. written, read: transactions. retries: of those that write, because another one was in the way. notes_sent,
    notes_received: notifications to and from other nodes. claims: jobs that were given to its keepers.
    unrecorded_ends: ends that it knows and the database does not. unsent_outputs: outputs of which it has more than
    the database, as far as it has looked, by the job's state (`running`, `ended`).
    """

    hosts: Mapping[str, int]
    lease_age: float
    is_available: bool
    written: int
    read: int
    retries: int
    notes_sent: int
    notes_received: int
    claims: int
    unrecorded_ends: int
    unsent_outputs: Mapping[str, int]
