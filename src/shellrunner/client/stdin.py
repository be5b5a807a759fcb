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

# The server may accept the bytes later, or has accepted them and could not confirm it.
_TRANSIENT_KINDS: Final = frozenset({"keeper-silent", "store-unavailable"})


async def pipe(requester: Requester, job_id: int, source: AsyncIterable[bytes]) -> bool:
    """Send a command all of `source` and then the end of its input; wait until it runs and while it does not read.

    Return False if the job is done before that.

    Raises:
        ClientError: the command takes no input, or another attempt has begun, which missed the input sent before.
    """
    writer = _StdinWriter(requester, job_id)
    async for data in source:
        for start in range(0, len(data), MAX_CHUNK):
            if not await writer.write(data[start : start + MAX_CHUNK]):
                return False
    return await writer.write(b"", end=True)


def stdin_path(job_id: int, offset: int | None, *, end: bool) -> str:
    """Return the path and query to which input is sent."""
    query = [f"offset={offset}"] * (offset is not None) + ["end=true"] * end
    return f"/api/jobs/{job_id}/stdin" + ("?" if query else "") + "&".join(query)


class _StdinWriter:
    def __init__(self, requester: Requester, job_id: int) -> None:
        self._requester, self._job_id = requester, job_id
        self._offset = 0

    async def write(self, data: bytes, *, end: bool = False) -> bool:
        """Send `data`; return False if the job is done, so that nothing reads it any more."""
        path = stdin_path(self._job_id, self._offset, end=end)
        retry = Retry(self._requester, _TRANSIENT_KINDS)
        while True:
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
                    await retry.wait_or_raise(error)
                    continue
            self._offset += len(data)
            return True

    def _was_received(self, error: ClientError, data: bytes, *, end: bool) -> bool:
        """Return whether an earlier attempt succeeded and only its response was lost."""
        if error.kind == "wrong-offset" and data and error.problem:
            return error.problem.get("offset") == self._offset + len(data)
        return error.kind == "input-closed" and end

    async def _is_done(self) -> bool:
        status = await self._requester.request("GET", f"/api/statuses/{self._job_id}")
        return bool(status["done"])
