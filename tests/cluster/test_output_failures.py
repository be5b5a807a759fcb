"""Output that is followed at one node while another one runs the job, through failures of all that is in between."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shellrunner.client import Client
from shellrunner.client.events import OutputReceived
from tests.support import postgres
from tests.support.cluster_service import ClusterService
from tests.support.waiting import until

BLOCKS, LINES = 12, 2_000
# Each block waits for the test, so that it is known what was written before which failure.
COMMAND = """
block=0
while [ $block -lt {blocks} ]; do
    while [ ! -e {gate}/$block ]; do sleep 0.01; done
    seq $((block * {lines})) $((block * {lines} + {lines} - 1))
    echo "block $block" >&2
    block=$((block + 1))
done
"""
STDOUT = b"".join(b"%d\n" % number for number in range(BLOCKS * LINES))
STDERR = b"".join(b"block %d\n" % number for number in range(BLOCKS))


class Follower:
    """What one client has received of both streams, by one kind of request."""

    def __init__(self) -> None:
        self.stdout = self.stderr = b""

    async def follow_events(self, client: Client, job: int) -> None:
        """Receive events, as an EventSource does."""
        async for event in client.follow(job):
            if isinstance(event, OutputReceived):
                if event.stream == "stdout":
                    self.stdout += event.data
                else:
                    self.stderr += event.data

    async def follow_bytes(self, client: Client, job: int) -> None:
        """Receive each stream as plain bytes, as curl does."""
        async for data in client.output(job, stream="stdout", follow=True):
            self.stdout += data
        async for data in client.output(job, stream="stderr", follow=True):
            self.stderr += data


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ClusterService]:
    """Yield an API node and a worker, running."""
    made = ClusterService(tmp_path / "state")
    try:
        yield await made.start()
    finally:
        await made.clear_away()
        for line in made.log[-40:]:
            print(line)  # pytest shows it where the test failed


@pytest.mark.heavy
async def test_followers_at_another_node_get_each_byte_once(cluster: ClusterService, tmp_path: Path) -> None:
    """Kill -9 of the worker's server, of the API node and an end of PostgreSQL, while output is on its way."""
    job = await cluster.submit(COMMAND.format(blocks=BLOCKS, lines=LINES, gate=tmp_path))
    server = postgres.shared()
    by_events, by_bytes = Follower(), Follower()
    blocks = iter(range(BLOCKS))

    def write(count: int) -> None:
        for _, block in zip(range(count), blocks, strict=False):
            (tmp_path / str(block)).touch()

    async with Client(cluster.url, retry_for=60) as client, asyncio.TaskGroup() as tasks:
        tasks.create_task(by_events.follow_events(client, job))
        tasks.create_task(by_bytes.follow_bytes(client, job))
        write(2)
        await until(lambda: len(by_events.stderr) > 0 and len(by_bytes.stdout) > 0, what="output arrives")
        write(1)
        await cluster.worker.kill()
        write(2)
        await cluster.worker.start()
        await until(lambda: by_events.stderr.count(b"\n") >= 5, what="it goes on after the worker's end")
        write(1)
        await asyncio.to_thread(server.stop, "immediate")
        write(2)
        await asyncio.to_thread(server.start)
        await until(lambda: by_events.stderr.count(b"\n") >= 8, what="it goes on after the database's end")
        write(BLOCKS)
    for follower in (by_events, by_bytes):
        assert follower.stdout == STDOUT
        assert follower.stderr == STDERR
    result = await cluster.result(job)
    assert (result["ending"], result["exit_code"], result["stdout_bytes"]) == ("exited", 0, len(STDOUT))
    assert await cluster.raw(job) == STDOUT
