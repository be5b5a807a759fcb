"""The keys of this terminal, typed into a job: in their order, each once, by one terminal at a time.

What is pressed while a request is under way is sent with the next one. Owned by an attachment. Must not know
output.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Final

from shellrunner.cli.fd_io import STDIN, read_chunks
from shellrunner.cli.terminal import stop_key
from shellrunner.cli.terminal.detach_key import DetachKey
from shellrunner.client import Client, ClientError

_MAX_WAITING: Final = 64  # pieces of input that wait to be sent; then no more is read
_LAST_KEYS_TIMEOUT: Final = 1.0  # seconds for what was typed before the key that detaches
_ENDED: Final = ("not-running", "no-such-job", "result-gone")
_REFUSALS: Final = {
    "input-taken": "another terminal is typing into this job, and this one only watches: use `attach --take`",
    "input-closed": "this job takes no input, so this terminal only watches",
    "command-not-allowed": "this token may not type into this job, so this terminal only watches",
    "insufficient-scope": "this token may not type into jobs, so this terminal only watches",
    "not-yours": "this job belongs to another user, so this terminal only watches",
}


class Detached(Exception):
    """The user has pressed the key that detaches, or closed the terminal."""


class Keyboard:
    """Types into one job; `is_writer` while it may."""

    def __init__(self, client: Client, job_id: int, name: str, detach_key: DetachKey, *, read_only: bool) -> None:
        """`name` is that under which this terminal follows the job; with `read_only` only `detach_key` is heeded."""
        self._stdin = client.open_stdin(job_id, writer=name)
        self._detach_key, self._read_only = detach_key, read_only
        self._typed: asyncio.Queue[bytes] = asyncio.Queue(_MAX_WAITING)
        self._claiming = asyncio.Lock()
        self.is_writer = False
        self.stop_typed = asyncio.Event()  # the key that stops what is in the foreground was typed into the job

    async def read(self) -> None:
        """Read keys until the one that detaches.

        Raises:
            Detached.
        """
        async for keys in read_chunks(STDIN, nullcontext()):
            typed, is_detaching = self._detach_key.split(keys)
            if typed and not self._read_only:
                with contextlib.suppress(asyncio.QueueFull):  # the service was away for long: as a full line's buffer
                    self._typed.put_nowait(typed)
            if is_detaching:
                break
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_KEYS_TIMEOUT):
                await self._typed.join()
        raise Detached

    async def type(self, on_refused: Callable[[str], None], on_granted: Callable[[], Awaitable[None]]) -> None:
        """Send what was read, without end.

        `on_refused` is called with the reason when this terminal is the writer no longer, and with an empty one for
        each key after that; `on_granted` when it has become the writer by a key, since no other one was left.
        """
        while True:
            keys = [await self._typed.get()]
            while not self._typed.empty():
                keys.append(self._typed.get_nowait())
            was_refused = not self.is_writer and not self._claiming.locked()
            if await self.claim(lambda _: on_refused(""), take=False) and was_refused:
                await on_granted()
            if self.is_writer:
                await self._send(b"".join(keys), on_refused)
            for _ in keys:
                self._typed.task_done()

    async def claim(self, on_refused: Callable[[str], None], *, take: bool) -> bool:
        """Become the job's writer, unless another one is; with `take`, although. Return whether that succeeded."""
        if self._read_only:
            return False
        async with self._claiming:
            if not self.is_writer:
                try:
                    await self._stdin.claim(take=take)
                    self.is_writer = True
                except ClientError as error:
                    if error.kind in _REFUSALS:
                        on_refused(_REFUSALS[error.kind])
                    elif error.kind not in _ENDED:
                        raise
        return self.is_writer

    async def _send(self, keys: bytes, on_refused: Callable[[str], None]) -> None:
        try:
            await self._stdin.write(keys)
            if stop_key.KEY in keys:
                self.stop_typed.set()
        except ClientError as error:
            if error.kind not in _REFUSALS:
                raise
            self.is_writer = False
            on_refused(_REFUSALS[error.kind])
