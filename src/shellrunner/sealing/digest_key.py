"""The key of the digests beside Idempotency-Keys: a plain hash of a body would give away a short secret in it.

One file in `keys/`, made with the first Idempotency-Key, and in no backup. Used by several threads.
"""

import asyncio
import hmac
import os
import secrets
import threading
from typing import Final

from shellrunner.directory_sync import sync_directory
from shellrunner.sealing.key_files import DIRECTORY, KEY_SIZE, write_error

_NAME: Final = "idempotency"
_WHAT: Final = "the key for digests of requests could not be written"


class DigestKey:
    """Turns a digest into one that nobody can compute who has not the key."""

    def __init__(self, state_dir: str) -> None:
        self._directory = f"{state_dir}/{DIRECTORY}"
        self._lock = threading.Lock()
        self._key: bytes | None = None

    async def apply(self, digest: bytes) -> bytes:
        """Return the keyed digest.

        Raises:
            NoSpace, StoreUnavailable: as below.
        """
        # The first call reads or writes a file.
        return await asyncio.to_thread(self.apply_now, digest) if self._key is None else self.apply_now(digest)

    def apply_now(self, digest: bytes) -> bytes:
        """Return the keyed digest. Blocking when it is called first.

        Raises:
            NoSpace, StoreUnavailable: there was no key, and it could not be written.
        """
        if self._key is None:
            with self._lock:
                try:
                    self._key = self._key or self.read() or self._create()
                except OSError as error:
                    raise write_error(_WHAT, error) from error
        return hmac.digest(self._key, digest, "sha256")

    def read(self) -> bytes | None:
        """Return the key; None if there is none, or a damaged one, whose digests can be compared with no other."""
        try:
            file = os.open(f"{self._directory}/{_NAME}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        try:
            key = os.read(file, KEY_SIZE + 1)
        finally:
            os.close(file)
        return key if len(key) == KEY_SIZE else None

    def _create(self) -> bytes:
        key, path = secrets.token_bytes(KEY_SIZE), f"{self._directory}/{_NAME}"
        file = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.write(file, key)
            os.fsync(file)
        finally:
            os.close(file)
        os.rename(f"{path}.new", path)
        sync_directory(self._directory)
        return key
