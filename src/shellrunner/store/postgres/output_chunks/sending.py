"""One step of the sender: look at outputs of this host, and send what has been added to them, in one transaction.

Runs on the thread of the sender's connection. Must not know the event loop, or when it is time for a step.

A step holds a lock on the row of each job that it sends for, which the end of the job waits for when another node
records it (`chunk_rows.sent_volume`): so nothing is added after an end. How far an output was sent is known from the
last commit; after a failure, or a start of the server, the database says it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from psycopg import errors

from shellrunner.errors import StoreUnavailable
from shellrunner.model import Volume
from shellrunner.store.output import Head, segments
from shellrunner.store.output.index import IndexedOutput
from shellrunner.store.output.local import LocalStorage, SlotReusedError
from shellrunner.store.output.location import Recorded, SlotOwner
from shellrunner.store.postgres.engine.connection_thread import PostgresThread
from shellrunner.store.postgres.engine.group_commit import roll_back
from shellrunner.store.postgres.engine.postgres_db import Connection
from shellrunner.store.postgres.output_chunks import chunk_rows, cutting
from shellrunner.store.postgres.output_chunks.chunk_rows import OutputChunk, Sent

T = TypeVar("T")

MAX_BATCH: Final = 1 << 21  # bytes in one transaction, about


@dataclass(slots=True, eq=False)
class OutgoingOutput:
    """An attempt that this node runs or has run, and how far its output was sent (None: the database has to say it).

    known_by: the connection that this is known by: another one may be to a server that has less (after a failover).
    token: of its claim. owner: None if only the job's row says it. recorded: all of it, once it has ended.
    is_damaged: the index has contradictions. Of the last step: is_held: whether the job is still under this claim;
    grew: how many bytes were sent; is_complete: nothing more can be sent now; failure: why it could not be read.
    """

    job_id: int
    token: str
    owner: SlotOwner | None
    sent: Sent | None = None
    known_by: Connection | None = None
    recorded: Recorded | None = None
    is_held: bool = True
    is_damaged: bool = False
    is_complete: bool = False
    grew: int = 0
    failure: StoreUnavailable | None = None

    @property
    def is_sent(self) -> bool:
        """Whether all that was there at the last look was sent, and could be read."""
        return self.is_complete and self.failure is None


@dataclass(slots=True)
class SendStep:
    """What is to be sent in one transaction."""

    chunks: dict[OutgoingOutput, list[OutputChunk]] = field(default_factory=dict)
    size: int = 0


def send(thread: PostgresThread, storage: LocalStorage, outputs: Sequence[OutgoingOutput]) -> None:
    """Send the next part of each of these outputs, as far as one transaction goes.

    Raises:
        psycopg.Error: the database is not there; nothing is known to be sent.
    """
    step = SendStep()
    for number, output in enumerate(outputs):
        output.grew, output.failure = 0, None
        if step.size >= MAX_BATCH:
            output.is_complete = False
            continue
        # One that has much to send leaves room for those that follow.
        room = max((MAX_BATCH - step.size) // (len(outputs) - number), cutting.MAX_SIZE)
        _look(thread, storage, output, step, room)
    if step.chunks:
        _commit(thread, step)


def _look(thread: PostgresThread, storage: LocalStorage, output: OutgoingOutput, step: SendStep, room: int) -> None:
    """Add to the step what was not sent yet."""
    output.is_complete = True
    try:
        if (owner := _owner(thread, output)) is None or (source := _open(storage, output, owner)) is None:
            return
        stored = source.volume.stored
        if output.known_by is not None and output.known_by is not thread.connection:
            output.sent = None
        if stored == 0 or (output.sent is not None and stored <= output.sent.volume.stored):
            return
        if output.sent is None:
            output.sent, output.known_by = chunk_rows.sent(thread.db, output.job_id, owner.attempt), thread.connection
        chunks = source.read_now(lambda indexed: _cut(indexed, output, room))
    except SlotReusedError:
        return
    except StoreUnavailable as failure:  # a file cannot be read
        output.failure = failure
        return
    if chunks:
        step.chunks[output] = chunks
        step.size += sum(len(chunk.data) for chunk in chunks)
        output.is_complete = chunks[-1].sent.volume.stored >= stored


def _owner(thread: PostgresThread, output: OutgoingOutput) -> SlotOwner | None:
    if output.owner is None:
        holder = chunk_rows.hold(thread.db, [output.job_id]).get(output.job_id)
        output.is_held = holder is not None and holder.token == output.token
        if holder is not None and output.is_held:
            output.owner = SlotOwner(holder.keeper, output.token, holder.attempt)
    return output.owner


def _open(storage: LocalStorage, output: OutgoingOutput, owner: SlotOwner) -> "_Readable | None":
    if output.recorded is not None:
        return storage.open_recorded(output.job_id, owner.attempt, output.recorded)
    return storage.open_slot(output.job_id, owner, _never)


class _Readable(Protocol):
    """A source that is read on this thread."""

    volume: Volume

    def read_now(self, read: Callable[[IndexedOutput], T], /) -> T: ...


def _cut(indexed: IndexedOutput, output: OutgoingOutput, room: int) -> list[OutputChunk]:
    found = segments.survey(indexed, thorough=output.is_damaged)
    parts = cutting.whole(indexed) if found is None else found
    chunks: list[OutputChunk] = []
    sent = output.sent or Sent()
    while room > 0:
        try:
            chunk = cutting.next_chunk(indexed, parts, sent)
        except cutting.DamagedIndexError:
            if output.is_damaged:
                break
            output.is_damaged = True
            parts = segments.survey(indexed, thorough=True) or []
            continue
        if chunk is None:
            break
        chunks.append(chunk)
        sent, room = chunk.sent, room - len(chunk.data)
    return chunks


def _commit(thread: PostgresThread, step: SendStep) -> None:
    connection, db = thread.connection, thread.db
    after: dict[OutgoingOutput, OutputChunk] = {}
    try:
        roll_back(connection)
        connection.execute("BEGIN")
        holders = chunk_rows.hold(db, [output.job_id for output in step.chunks])
        rows: list[tuple[int, int, OutputChunk]] = []
        for output, chunks in step.chunks.items():
            holder = holders.get(output.job_id)
            output.is_held = holder is not None and holder.token == output.token
            if output.is_held and output.owner is not None:
                rows += [(output.job_id, output.owner.attempt, chunk) for chunk in chunks]
                after[output] = chunks[-1]
        chunk_rows.add(db, rows)
        connection.execute("COMMIT")
    except errors.UniqueViolation:  # somebody has sent from here on: as the same claim, so the same bytes
        roll_back(connection)
        for output in step.chunks:
            output.sent, output.is_complete = None, False
    except BaseException:
        for output in step.chunks:
            output.sent, output.is_complete = None, False
        thread.drop()
        raise
    else:
        for output, last in after.items():
            output.grew = sum(len(chunk.data) for chunk in step.chunks[output])
            output.sent, output.known_by = last.sent, connection


async def _never() -> Recorded:
    return Recorded(Volume(), Head())
