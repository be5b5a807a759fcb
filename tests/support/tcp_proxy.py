"""A TCP proxy between a client and a server, whose connections break where a test wants it."""

import asyncio
import contextlib
import re
from typing import Self
from urllib.parse import urlsplit

# Where an answer breaks, see `TcpProxy.breaks`.
IN_HEAD = rb"HTTP/1\.1 [^\r]+\r\n[A-Z]"
IN_BODY = rb"(?s)\r\n\r\n."
IN_EVENT = rb"\nid: \d+\n"  # of a stream: its data is missing


class TcpProxy:
    """Listens at `url`, and passes on what comes to `target`.

    `breaks` are where connections break, one for each in turn: after so many bytes of answers, behind the first match
    of a pattern, or nowhere (None). `instead` is what is answered to further connections without asking anybody, one
    each. `asked` has the first lines of all requests; `rewrites` are what is replaced in answers, by what has the
    same length.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.url = ""
        self.asked: list[str] = []
        self.breaks: list[int | bytes | None] = []
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
        self._streams.add(writer)
        with contextlib.suppress(OSError):
            if self.breaks:
                await self._connect(reader, writer, self.breaks.pop(0))
            elif self.instead:
                writer.write(self.instead.pop(0))
                await writer.drain()
            else:
                await self._connect(reader, writer, None)
        self._streams.discard(writer)
        writer.close()

    async def _connect(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, place: int | bytes | None
    ) -> None:
        target = urlsplit(self.target)
        there, onward = await asyncio.open_connection(target.hostname, target.port)
        self._streams.add(onward)
        asking = asyncio.create_task(self._listen(reader, onward))
        answers, passed = b"", 0
        try:
            while data := await there.read(65536):
                for original, replacement in self.rewrites.items():
                    data = data.replace(original, replacement)
                answers += data
                end = _end(answers, place)
                writer.write(answers[passed:end])
                passed = len(answers)
                await writer.drain()
                if end is not None:
                    self.broken += 1
                    await asyncio.sleep(0.01)  # what was written gets there; a reset would take it away
                    break
        finally:
            asking.cancel()
            onward.transport.abort()
            writer.transport.abort()
            self._streams.discard(onward)

    async def _listen(self, reader: asyncio.StreamReader, onward: asyncio.StreamWriter) -> None:
        host = b"Host: " + urlsplit(self.target).netloc.encode()
        while data := await reader.read(65536):
            if data.startswith((b"GET ", b"POST ", b"PUT ", b"PATCH ", b"DELETE ", b"HEAD ")):
                self.asked.append(data.split(b"\r\n", 1)[0].decode().rsplit(" ", 1)[0])
                data = re.sub(rb"(?im)^host: [^\r]*", host, data, count=1)
            onward.write(data)
            await onward.drain()


def _end(answers: bytes, place: int | bytes | None) -> int | None:
    """Return how many bytes of the answers pass before the connection breaks, or None if all of these do."""
    if isinstance(place, bytes):
        found = re.search(place, answers)
        return found and found.end()
    return place if place is not None and len(answers) >= place else None
