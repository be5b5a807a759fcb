"""A job's output as plain text, for people with curl: all of it or its last lines, now or until the end.

Handler of /api/statuses/{id}/output. Must not know how output is stored.
"""

from dataclasses import dataclass
from functools import partial
from typing import Final

from aiohttp import web

from shellrunner.model import Stream
from shellrunner.results import read_whole, size
from shellrunner.store import Output, Subscription
from shellrunner.web.app_keys import STORE, job_id
from shellrunner.web.feeds.job_feed import FEEDS, Feed, Snapshot
from shellrunner.web.handlers.result_bytes import SANDBOX
from shellrunner.web.http import parameters
from shellrunner.web.http.streaming import STREAMS, ResponseStream, begin
from shellrunner.wire.text import label, line_ends

PIECE: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class OutputView:
    """What is shown: both streams as they arrived, or one of them."""

    stream: Stream | None

    def end(self, output: Output) -> int:
        """The place after the last byte."""
        return output.volume.stored if self.stream is None else size(output.volume, self.stream)

    async def read(self, output: Output, at: int, limit: int) -> bytes:
        """At most `limit` bytes from `at` on; empty at the end only."""
        if self.stream is not None:
            return await output.read_stream(self.stream, at, limit)
        return b"".join(extent.data for extent in await output.read(at, limit))

    async def tail(self, output: Output, lines: int, charset: str) -> int:
        """Where the last `lines` lines begin, as tail(1) counts: a newline at the very end begins no line."""
        end = at = self.end(output)
        if lines == 0:
            return end
        while at > 0:
            first = max(0, at - 1 - (at - 1) % PIECE)
            for line_end in reversed(
                line_ends(await read_whole(partial(self.read, output), first, at - first), first, charset)
            ):
                lines -= line_end < end
                if lines == 0:
                    return line_end
            at = first
        return 0


async def show(request: web.Request) -> web.StreamResponse:
    """GET /api/statuses/{id}/output: what it has written so far, both streams as they arrived, or until its end."""
    request.app[STREAMS].check_open()
    stream = parameters.choice(request, "stream", tuple(Stream))
    source = OutputView(None if stream is None else Stream(stream))
    lines = parameters.number(request, "tail", least=0, most=10**15)
    follow = parameters.flag(request, "follow")
    feed = request.app[FEEDS].of(job_id(request))
    with request.app[STORE].watch(job_id(request)) as bell:
        look = await feed.look()
        charset = look.job.spec.encoding
        at = 0 if lines is None else await source.tail(look.output, lines, charset)
        headers = {"Content-Type": f"text/plain; charset={label(charset)}", "Cache-Control": "no-store", **SANDBOX}
        if not follow:
            headers["Content-Length"] = str(source.end(look.output) - at)
        outlet = await begin(request, headers, follows=follow)
        if request.method != "HEAD":
            await _pour(outlet, source, look, at)
            if follow:
                await _follow(outlet, source, feed, bell, look)
        return await outlet.finish()


async def _pour(outlet: ResponseStream, source: OutputView, look: Snapshot, at: int) -> None:
    end = source.end(look.output)
    while at < end:
        piece = await source.read(look.output, at, min(PIECE, end - at))
        if not piece:
            raise OSError(f"the output ends at {at}, before its recorded size {end}")
        await outlet.send(piece)
        at += len(piece)


async def _follow(outlet: ResponseStream, source: OutputView, feed: Feed, bell: Subscription, look: Snapshot) -> None:
    while not look.job.done:
        told = source.end(look.output)
        while not await outlet.hear(bell):
            if outlet.closing:
                # A proper end would say that the job has ended.
                raise ConnectionAbortedError("the service is shutting down")
        look = await feed.look()
        await _pour(outlet, source, look, told)
