"""Output that its row has not all of becomes chunks: read from the spill files of a state directory.

Used by `history_import`, in its transaction. Must not know rows of jobs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from shellrunner.store.output import segments
from shellrunner.store.output.index import IndexedOutput
from shellrunner.store.output.local import LocalStorage
from shellrunner.store.output.location import Recorded
from shellrunner.store.postgres.engine.postgres_db import Connection
from shellrunner.store.postgres.output_chunks import cutting
from shellrunner.store.postgres.output_chunks.chunk_rows import OutputChunk, Sent

_COPY: Final = """COPY chunks (job, attempt, position, length, stdout, stdout_length, missing, first_entry, entries,
    data) FROM STDIN"""


@dataclass(slots=True)
class ImportedOutput:
    """How many chunks were made, how many bytes they have, and how many outputs lack bytes in the files already."""

    chunks: int = 0
    bytes: int = 0
    incomplete: int = 0


class ChunkImport:
    """Adds the chunks of one output after the other. total: of all so far."""

    def __init__(self, connection: Connection, storage: LocalStorage) -> None:
        self._connection, self._storage = connection, storage
        self.total = ImportedOutput()

    def add(self, job_id: int, attempt: int, recorded: Recorded) -> None:
        """Add the chunks of an attempt that has ended.

        Raises:
            StoreUnavailable: a file cannot be read.
        """
        source = self._storage.open_recorded(job_id, attempt, recorded)
        with self._connection.cursor() as cursor, cursor.copy(_COPY) as copy:
            last = source.read_now(lambda indexed: self._copy(copy, job_id, attempt, indexed))
        if last.volume.stored < recorded.volume.stored or last.missing:
            self.total.incomplete += 1

    def _copy(self, copy: Any, job_id: int, attempt: int, indexed: IndexedOutput) -> Sent:
        sent = Sent()
        for chunk in _cut(indexed):
            columns = (*chunk[1:5], chunk.entries, chunk.data)
            copy.write_row((job_id, attempt, chunk.position, len(chunk.data), *columns))
            self.total.chunks += 1
            self.total.bytes += len(chunk.data)
            sent = chunk.sent
        return sent


def _cut(indexed: IndexedOutput) -> Iterator[OutputChunk]:
    """Yield the chunks of an output; what is missing or damaged in the files is passed over."""
    sent, is_thorough = Sent(), False
    parts = segments.survey(indexed, thorough=False)
    while True:
        try:
            chunk = cutting.next_chunk(indexed, cutting.whole(indexed) if parts is None else parts, sent)
        except cutting.DamagedIndexError:
            if is_thorough:
                return
            parts, is_thorough = segments.survey(indexed, thorough=True) or [], True
            continue
        if chunk is None:
            return
        yield chunk
        sent = chunk.sent
