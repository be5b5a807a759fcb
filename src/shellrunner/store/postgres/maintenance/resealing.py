"""Secrets of jobs that are not done: unsealed with the keys of one host, sealed with keys that are in the database.

Used by `history_import`. The new keys follow from one random key that is forgotten after the import, so that they are
written before the jobs without being kept for all of these. Must not know tables other than by their names.
"""

import hmac
import json
import secrets
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

from shellrunner.errors import StoreUnavailable
from shellrunner.sealing import sealed_text
from shellrunner.sealing.key_files import KEY_SIZE, JobKey, KeyUnusable

_SEALED = "state != 'done' AND secrets IS NOT NULL"


class ReadRows(Protocol):
    """Yields columns of a table's rows."""

    def rows(self, table: str, columns: Sequence[str], where: str = ..., /) -> Generator[tuple[Any, ...]]:
        """Yield these columns."""


class Resealing:
    """Reads the values of each job once. unreadable: jobs whose key is missing or damaged; these fail to start."""

    def __init__(self, source: ReadRows, read_key: Callable[[str], bytes]) -> None:
        self._source, self._read_key = source, read_key
        self._once = secrets.token_bytes(KEY_SIZE)
        self.unreadable = 0

    def new_keys(self) -> Generator[tuple[str, bytes]]:
        """Yield the new key of each job that has secrets: its name, and what it is."""
        for (job_id,) in self._source.rows("jobs", ["id"], _SEALED):
            key = self._new_key(job_id)
            yield key.name, key.secret

    def seal(self, columns: Sequence[str], rows: Generator[tuple[Any, ...]]) -> Generator[tuple[Any, ...]]:
        """Yield rows of `jobs` with the secrets sealed by the new keys."""
        place, id_place = columns.index("secrets"), columns.index("id")
        for row in rows:
            stored = row[place]
            if stored is None:
                yield row
            else:
                yield (*row[:place], self._reseal(stored, row[id_place]), *row[place + 1 :])

    def _reseal(self, stored: str, job_id: int) -> str:
        try:
            values = self._unseal(stored, job_id)
        except KeyUnusable:
            self.unreadable += 1
            return stored  # it names a key that is in no database: the job fails to start, and says why
        return sealed_text.seal(json.dumps(values, ensure_ascii=False), self._new_key(job_id), job_id)

    def _unseal(self, stored: str, job_id: int) -> dict[str, Any]:
        name = sealed_text.key_name(stored)
        if name is None:
            if sealed_text.is_plain(stored):
                return sealed_text.parse(stored)
            raise KeyUnusable("the history was copied without them")
        try:
            return sealed_text.unseal(stored, self._read_key(name), job_id)
        except OSError as error:
            raise StoreUnavailable(f"the key of job {job_id} cannot be read: {error.strerror}") from error

    def _new_key(self, job_id: int) -> JobKey:
        secret = hmac.digest(self._once, f"key {job_id}".encode(), "sha256")
        return JobKey(hmac.digest(self._once, f"name {job_id}".encode(), "sha256").hex()[:32], secret)
