"""Standard input for a running command: every byte of a source once, however often the connection breaks.

Works on a `Requester`. Must not know where the bytes come from.
"""

from collections.abc import AsyncIterable
from typing import Final

from shellrunner.client.client_error import ClientError
from shellrunner.client.requester import Requester
from shellrunner.client.retry import Retry

HEADERS: Final = {"Content-Type": "application/octet-stream"}
MAX_CHUNK: Final = 1 << 18  # bytes per request; the server buffers 1 MiB for a command that reads slowly

_NO_OFFSET: Final = 10**18 - 1  # bytes: more than any input has
# The server may accept the bytes later, or has accepted them and could not confirm it.
_TRANSIENT_KINDS: Final = frozenset({"keeper-silent", "store-unavailable"})


async def pipe(requester: Requester, job_id: int, source: AsyncIterable[bytes]) -> bool:
    """Send a command all of `source` and then the end of its input; wait until it runs and while it does not read.

    Return False if the job is done before that.

    Raises:
        ClientError: the command takes no input, or another attempt has begun, which missed the input sent before.
    """
    writer = StdinWriter(requester, job_id)
    async for data in source:
        for start in range(0, len(data), MAX_CHUNK):
            if not await writer.write(data[start : start + MAX_CHUNK]):
                return False
    return await writer.write(b"", end=True)


def stdin_path(job_id: int, offset: int | None, *, end: bool, writer: str | None = None, take: bool = False) -> str:
    """Return the path and query to which input is sent."""
    query = [f"offset={offset}"] * (offset is not None) + ["end=true"] * end
    query += [f"writer={writer}"] * (writer is not None) + ["take=true"] * take
    return f"/api/jobs/{job_id}/stdin" + ("?" if query else "") + "&".join(query)


class StdinWriter:
    """Writes to the input of one job, each byte once.

    With `writer`, the name of a client that follows the job, it is perhaps not the only one that writes: see `claim`.
    """

    def __init__(self, requester: Requester, job_id: int, writer: str | None = None) -> None:
        self._requester, self._job_id, self._name = requester, job_id, writer
        self._offset = 0

    async def claim(self, *, take: bool = False) -> None:
        """Become the job's writer, who goes on where the input is; with `take`, although there is another one.

        Raises:
            ClientError: `input-taken`: there is another one; `not-running`; `input-closed`: it takes no input.
        """
        # No input has this offset: the answer names the one that it has.
        path = stdin_path(self._job_id, _NO_OFFSET, end=False, writer=self._name, take=take)
        try:
            await self._requester.request("POST", path, body=b"", headers=HEADERS)
        except ClientError as error:
            if not self._move_on(error):
                raise

    async def write(self, data: bytes, *, end: bool = False) -> bool:
        """Send `data`; return False if the job is done, so that nothing reads it any more.

        Raises:
            ClientError: the job takes no input, or not from this one: see `claim`.
        """
        retry = Retry(self._requester, _TRANSIENT_KINDS)
        while True:
            path = stdin_path(self._job_id, self._offset, end=end, writer=self._name)
            try:
                await self._requester.request("POST", path, body=data, headers=HEADERS, idempotent=False)
            except ClientError as error:
                if error.kind == "not-running":
                    if await self._is_done():
                        return False
                    await retry.backoff()
                    continue
                if error.kind == "input-full":
                    await retry.backoff()
                    continue
                if not self._was_received(error, data, end=end):
                    # The writer of that name goes on behind what others wrote, who have none, or in another attempt.
                    if self._name is None or not self._move_on(error):
                        await retry.wait_or_raise(error)
                    continue
            self._offset += len(data)
            return True

    def _was_received(self, error: ClientError, data: bytes, *, end: bool) -> bool:
        """Return whether an earlier attempt succeeded and only its response was lost."""
        if error.kind == "wrong-offset" and data and error.problem:
            return error.problem.get("offset") == self._offset + len(data)
        return error.kind == "input-closed" and end

    def _move_on(self, error: ClientError) -> bool:
        """Go on where the input is; return False if the error does not say that."""
        if error.kind != "wrong-offset" or not error.problem or "offset" not in error.problem:
            return False
        self._offset = error.problem["offset"]
        return True

    async def _is_done(self) -> bool:
        status = await self._requester.request("GET", f"/api/statuses/{self._job_id}", has="done")
        return bool(status["done"])
