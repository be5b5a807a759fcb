"""A TCP proxy between a client and a server, whose connections break where a test wants it."""

import asyncio
import contextlib
from typing import Self
from urllib.parse import urlsplit


class TcpProxy:
    """Listens at `url`, and passes on what comes to `target`.

    `budgets` are how many bytes of the answers pass before a connection breaks, one for each connection in turn;
    `instead` is what is answered to further connections without asking anybody, one each. `asked` has the first lines
    of all requests; `rewrites` are what is replaced in answers, by what has the same length.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.url = ""
        self.asked: list[str] = []
        self.budgets: list[int] = []
        self.instead: list[bytes] = []
        self.rewrites: dict[bytes, bytes] = {}
        self.broken = 0
        self._streams: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        """Begin to listen."""
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        """Break all connections, and stop listening."""
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Break what is connected now."""
        for writer in list(self._streams):
            writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        budget = self.budgets.pop(0) if self.budgets else None
        self._streams.add(writer)
        with contextlib.suppress(OSError):
            if budget is None and self.instead:
                writer.write(self.instead.pop(0))
                await writer.drain()
            else:
                await self._connect(reader, writer, budget)
        self._streams.discard(writer)
        writer.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: int | None) -> None:
        place = urlsplit(self.target)
        there, onward = await asyncio.open_connection(place.hostname, place.port)
        self._streams.add(onward)
        asking = asyncio.create_task(self._listen(reader, onward))
        try:
            while data := await there.read(65536):
                for original, replacement in self.rewrites.items():
                    data = data.replace(original, replacement)
                if budget is not None:
                    data, budget = data[:budget], budget - len(data)
                writer.write(data)
                await writer.drain()
                if budget is not None and budget <= 0:
                    self.broken += 1
                    await asyncio.sleep(0.01)  # what was written gets there; a reset would take it away
                    break
        finally:
            asking.cancel()
            onward.transport.abort()
            writer.transport.abort()
            self._streams.discard(onward)

    async def _listen(self, reader: asyncio.StreamReader, onward: asyncio.StreamWriter) -> None:
        host = f"Host: {urlsplit(self.url).netloc}".encode(), f"Host: {urlsplit(self.target).netloc}".encode()
        while data := await reader.read(65536):
            if data.startswith((b"GET ", b"POST ", b"PUT ", b"PATCH ", b"DELETE ", b"HEAD ")):
                self.asked.append(data.split(b"\r\n", 1)[0].decode().rsplit(" ", 1)[0])
            onward.write(data.replace(*host))
            await onward.drain()
