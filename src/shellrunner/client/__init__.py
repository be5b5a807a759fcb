"""A typed client of the API, used by the command line and by other programs.

It survives broken connections and restarts of the server. The methods of a `SyncClient` block:

    from shellrunner.client import OutputReceived, SyncClient

    with SyncClient("http://localhost:8000", token=None) as client:
        result = client.run("echo Привет, $NAME", env={"NAME": "мир"}, timeout=60)
        print(result["exit_code"], result["stdout"], end="")

        job = client.submit("for n in 1 2 3; do echo $n; done", name="count")
        for event in client.follow(job["job_id"]):
            if isinstance(event, OutputReceived):
                print(event.stream, event.data)
        print(client.result(job["job_id"])["ending"])

Those of a `Client` are coroutines and asynchronous iterators, with the same names, parameters and results:

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

What methods return are the documents of the API, as dictionaries whose types are here too: `Job`, `Status`,
`Result`, and others. Importing this package imports nothing of the server, and the types only if they are asked for.

Must not know the server's code.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from shellrunner.client.address import ServerAddress
from shellrunner.client.client import DEFAULT_URL, Client
from shellrunner.client.client_error import ClientError
from shellrunner.client.events import (
    AttemptEnded,
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

if TYPE_CHECKING:
    from shellrunner.client.sync_client import SyncClient, SyncStdinWriter
    from shellrunner.wire.documents import (
        Cancelled,
        Fault,
        Held,
        Index,
        Job,
        Jobs,
        Keepers,
        Leftover,
        LiveUsage,
        LiveUsages,
        OutputLine,
        OutputMatch,
        Problem,
        Queue,
        Queues,
        Removed,
        Result,
        Status,
        UnknownKeeper,
        Usage,
        Worker,
        Workers,
    )
    from shellrunner.wire.job_documents import (
        Callback,
        Found,
        HiddenText,
        Limits,
        Pending,
        Retries,
        Streamed,
        Terminal,
        TerminalSize,
        Unreachable,
    )
    from shellrunner.wire.stream_events import AttemptEvent, DoneEvent


__all__ = [
    "ANYBODY",
    "DEFAULT_URL",
    "AttemptEnded",
    "AttemptEvent",
    "BytesDropped",
    "Callback",
    "Cancelled",
    "Change",
    "Client",
    "ClientError",
    "DoneEvent",
    "Event",
    "Fault",
    "Found",
    "Held",
    "HiddenText",
    "Index",
    "Job",
    "JobDeleted",
    "JobEnded",
    "JobOptions",
    "JobRequest",
    "Jobs",
    "Keepers",
    "Leftover",
    "Limits",
    "LiveUsage",
    "LiveUsages",
    "OutputLine",
    "OutputMatch",
    "OutputReceived",
    "Pending",
    "Problem",
    "Queue",
    "Queues",
    "Removed",
    "Result",
    "Retries",
    "RetryListener",
    "ServerAddress",
    "Status",
    "StatusChanged",
    "StreamReset",
    "Streamed",
    "SyncClient",
    "SyncStdinWriter",
    "Terminal",
    "TerminalSize",
    "UnknownKeeper",
    "Unreachable",
    "Usage",
    "Worker",
    "Workers",
]

# What is imported when it is asked for: it needs http.client or pydantic, which take long to import. All other names
# are those of documents.
_LAZY = {
    "SyncClient": "shellrunner.client.sync_client",
    "SyncStdinWriter": "shellrunner.client.sync_client",
    "AttemptEvent": "shellrunner.wire.stream_events",
    "DoneEvent": "shellrunner.wire.stream_events",
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(_LAZY.get(name, "shellrunner.wire.documents")), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
