"""Standard input for a command that runs: all of a source, each byte once, however often a connection breaks.

Works on a `Transport`. Must not know where the bytes come from.
"""

from collections.abc import AsyncIterable
from typing import Final

from shellrunner.client.client_error import ClientError
from shellrunner.client.transport import Transport, Tries

LARGEST: Final = 1 << 18  # bytes sent at once: several are held for a command that reads slowly (1 MiB)

# The service will take it a little later, or has perhaps taken it without being able to say so.
_BEARS: Final = frozenset({"keeper-silent", "store-unavailable"})


async def feed(connection: Transport, job_id: int, source: AsyncIterable[bytes]) -> bool:
    """Give a command all of `source`, and then the end of its input; wait until it runs, and while it does not read.

    False if the job is done before that.

    Raises:
        ClientError: it takes no input, or another attempt of it began, which has missed what was given before.
    """
    giving = _Giving(connection, job_id)
    async for data in source:
        for at in range(0, len(data), LARGEST):
            if not await giving.give(data[at : at + LARGEST]):
                return False
    return await giving.give(b"", end=True)


def path(job_id: int, offset: int | None, *, end: bool) -> str:
    """Where input is given."""
    query = [f"offset={offset}"] * (offset is not None) + ["end=true"] * end
    return f"/api/jobs/{job_id}/stdin" + ("?" if query else "") + "&".join(query)


class _Giving:
    def __init__(self, connection: Transport, job_id: int) -> None:
        self._connection, self._job_id = connection, job_id
        self._offset = 0

    async def give(self, data: bytes, *, end: bool = False) -> bool:
        """Give these bytes; false if the job is done, so that nobody takes them any more."""
        where = path(self._job_id, self._offset, end=end)
        tries = Tries(self._connection, _BEARS)
        while True:
            try:
                await self._connection.ask("POST", where, body=data, idempotent=False)
            except ClientError as error:
                if error.kind == "not-running":
                    if await self._is_done():
                        return False
                    await tries.pause()
                    continue
                if error.kind == "input-full":
                    await tries.pause()
                    continue
                if not self._was_taken(error, data, end=end):
                    await tries.wait_or_raise(error)
                    continue
            self._offset += len(data)
            return True

    def _was_taken(self, error: ClientError, data: bytes, *, end: bool) -> bool:
        """Whether it got there before, and only the answer was lost."""
        if error.kind == "wrong-offset" and data and error.problem:
            return error.problem.get("offset") == self._offset + len(data)
        return error.kind == "input-closed" and end

    async def _is_done(self) -> bool:
        status = await self._connection.ask("GET", f"/api/statuses/{self._job_id}")
        return bool(status["done"])
