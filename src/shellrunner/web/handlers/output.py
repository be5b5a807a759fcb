"""A job's output as plain text, for people with curl: all of it or its last lines, now or until the end.

Handler of /api/statuses/{id}/output. Must not know how output is stored.
"""

from dataclasses import dataclass
from functools import partial
from typing import Final

from aiohttp import web

from shellrunner.model import Stream
from shellrunner.results import read_whole
from shellrunner.store import Output, Subscription
from shellrunner.web.app_keys import STORE, job_id
from shellrunner.web.feeds.job_feed import JOB_FEEDS, JobFeed, Snapshot
from shellrunner.web.handlers.result_bytes import SANDBOX
from shellrunner.web.http import parameters
from shellrunner.web.http.streaming import STREAMS, ResponseStream, start_stream
from shellrunner.wire.text import label, line_ends

READ_SIZE: Final = 1 << 16  # bytes read at once


@dataclass(frozen=True, slots=True)
class OutputView:
    """What is shown: both streams in arrival order, or one of them."""

    stream: Stream | None

    def end(self, output: Output) -> int:
        """Return the position after the last byte."""
        return output.volume.stored if self.stream is None else output.volume.stream_bytes(self.stream)

    async def read(self, output: Output, at: int, limit: int) -> bytes:
        """Read at most `limit` bytes from `at` on; empty only at the end."""
        if self.stream is not None:
            return await output.read_stream(self.stream, at, limit)
        return b"".join(extent.data for extent in await output.read(at, limit))

    async def tail(self, output: Output, lines: int, charset: str) -> int:
        """Return where the last `lines` lines begin, as tail(1) counts: a newline at the very end begins no line."""
        end = at = self.end(output)
        if lines == 0:
            return end
        while at > 0:
            first = max(0, at - 1 - (at - 1) % READ_SIZE)
            data = await read_whole(partial(self.read, output), first, at - first)
            for line_end in reversed(line_ends(data, first, charset)):
                lines -= line_end < end
                if lines == 0:
                    return line_end
            at = first
        return 0


async def show(request: web.Request) -> web.StreamResponse:
    """GET /api/statuses/{id}/output: return the output so far as plain text, or follow it until the job is done.

    Both streams in arrival order, or one of them. With `follow` the response ends when the job does.
    """
    request.app[STREAMS].raise_if_closing()
    stream = parameters.choice(request, "stream", tuple(Stream))
    view = OutputView(None if stream is None else Stream(stream))
    lines = parameters.integer(request, "tail", minimum=0, maximum=10**15)
    follow = parameters.flag(request, "follow")
    feed = request.app[JOB_FEEDS].get(job_id(request))
    with request.app[STORE].watch(job_id(request)) as subscription:
        snapshot = await feed.snapshot()
        charset = snapshot.job.spec.encoding
        at = 0 if lines is None else await view.tail(snapshot.output, lines, charset)
        headers = {"Content-Type": f"text/plain; charset={label(charset)}", "Cache-Control": "no-store", **SANDBOX}
        if not follow:
            headers["Content-Length"] = str(view.end(snapshot.output) - at)
        response = await start_stream(request, headers, follows=follow)
        if request.method != "HEAD":
            await _send(response, view, snapshot, at)
            if follow:
                await _follow(response, view, feed, subscription, snapshot)
        return await response.finish()


async def _send(response: ResponseStream, view: OutputView, snapshot: Snapshot, at: int) -> None:
    end = view.end(snapshot.output)
    while at < end:
        data = await view.read(snapshot.output, at, min(READ_SIZE, end - at))
        if not data:
            raise OSError(f"the output ends at {at}, before its recorded size {end}")
        await response.send(data)
        at += len(data)


async def _follow(
    response: ResponseStream, view: OutputView, feed: JobFeed, subscription: Subscription, snapshot: Snapshot
) -> None:
    while not snapshot.job.done:
        sent = view.end(snapshot.output)
        while not await response.wait_for(subscription):
            if response.closing:
                # A proper end would mean that the job has ended.
                raise ConnectionAbortedError("the service is shutting down")
        snapshot = await feed.snapshot()
        await _send(response, view, snapshot, sent)
