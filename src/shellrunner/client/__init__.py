"""A typed async client of the API, used by the command line and by other programs.

It survives broken connections and restarts of the server. Must not know the server's code.

    import asyncio
    from shellrunner.client import Client, ClientError, OutputReceived

    async def main():
        async with Client("http://localhost:8000", token=None) as client:
            result = await client.run("echo Привет, $NAME", env={"NAME": "мир"}, timeout=60)
            print(result["exit_code"], result["stdout"])

            job = await client.submit(argv=["sort", "-u"], stdin={"stream": True}, labels={"team": "web"})
            await client.write_stdin(job["job_id"], b"b\\na\\nb\\n", end=True)
            async for event in client.follow(job["job_id"]):
                if isinstance(event, OutputReceived):
                    print(event.stream, event.data)

            async for job in client.jobs(label="team:web", state="done"):
                print(job["job_id"], job["command"])
            try:
                await client.job(10**17)
            except ClientError as error:
                print(error.status, error.kind, error.detail, sep="; ")

    asyncio.run(main())

The types of the documents that the methods return are in `shellrunner.wire.documents`.
"""

from shellrunner.client.address import ServerAddress
from shellrunner.client.client import DEFAULT_URL, Client
from shellrunner.client.client_error import ClientError
from shellrunner.client.events import (
    BytesDropped,
    Change,
    Event,
    JobDeleted,
    JobEnded,
    OutputReceived,
    StatusChanged,
    StreamReset,
)
from shellrunner.client.request_types import JobOptions, JobRequest
from shellrunner.client.requester import RetryListener
from shellrunner.client.server_identity import ANYBODY

__all__ = [
    "ANYBODY",
    "DEFAULT_URL",
    "BytesDropped",
    "Change",
    "Client",
    "ClientError",
    "Event",
    "JobDeleted",
    "JobEnded",
    "JobOptions",
    "JobRequest",
    "OutputReceived",
    "RetryListener",
    "ServerAddress",
    "StatusChanged",
    "StreamReset",
]
