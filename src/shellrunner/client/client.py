"""The API as typed methods, one for each route: the server's twin.

Whoever makes a `Client` owns it. Must not know the server's own code, but for the types of its documents.
"""

import asyncio
import json
import ssl
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypedDict, Unpack
from urllib.parse import quote, urlencode

from shellrunner.client import stdin, streams
from shellrunner.client.address import ServerAddress
from shellrunner.client.client_error import ClientError
from shellrunner.client.events import Change, Event
from shellrunner.client.transport import SILENCE, Notice, Transport

if TYPE_CHECKING:
    from shellrunner.wire import documents

DEFAULT: Final = "http://127.0.0.1:8000"
_LONG: Final = 60  # seconds that a server lets a request wait at most
_BRIEF: Final = 1.0
_VERY_LONG: Final = 3600.0  # for what may delete a million jobs
_JSON: Final = {"Content-Type": "application/json"}

Stream = Literal["stdout", "stderr"]
Filter = str | float | Sequence[str]


class Spec(TypedDict, total=False):
    """What may be asked for beside the command, as POST /api/jobs has it."""

    cwd: str | None
    env: Mapping[str, str]
    stdin: str | Mapping[str, bool] | None
    timeout: float | None
    priority: int
    queue: str
    labels: Mapping[str, str]
    merge_stderr: bool
    leave_children: bool | None
    encoding: str
    limits: Mapping[str, int]
    after: Sequence[int]
    start_at: str | None
    retries: Mapping[str, Any] | None
    notify: Mapping[str, str] | None
    tty: bool | Mapping[str, int] | None


class Client:
    """A server, and all that can be asked of it. Every method raises `ClientError`, and nothing else of its own.

    What may be asked twice is asked again when a connection breaks, until the server has been away for `patience`
    seconds; a server that never was there is told at once. `notice` is called with the reason for each new try, and
    with None once the server is back.
    """

    def __init__(
        self,
        url: str = DEFAULT,
        *,
        token: str | None = None,
        patience: float = 60.0,
        notice: Notice | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`url` is http://…, https://… or unix:/PATH (ValueError: it is none of these)."""
        self._connection = Transport(ServerAddress.parse(url), token=token, patience=patience, notice=notice, tls=tls)

    async def __aenter__(self) -> Self:
        """Nothing is connected before it is needed."""
        await self._connection.__aenter__()
        return self

    async def __aexit__(self, *problem: object) -> None:
        """Close all connections."""
        await self._connection.__aexit__(*problem)

    # Jobs

    async def submit(
        self,
        command: str | None = None,
        *,
        argv: Sequence[str] | None = None,
        key: str | None = None,
        **spec: Unpack[Spec],
    ) -> "documents.Job":
        """Have a command run: a line for the shell, or `argv` without one. Returns once that is durably recorded.

        It is sent again when the answer is lost, and is one job all the same: `key` (made up, if not given) tells it
        from others for 24 hours.
        """
        body = {"command": command, "argv": argv, **spec}
        given = {name: value for name, value in body.items() if value is not None}
        headers = {**_JSON, "Idempotency-Key": f'"{key or uuid.uuid4().hex}"'}
        content = json.dumps(given, ensure_ascii=False).encode()
        job: documents.Job = await self._connection.ask("POST", "/api/jobs", body=content, headers=headers)
        return job

    async def run(
        self, command: str | None = None, *, argv: Sequence[str] | None = None, **spec: Unpack[Spec]
    ) -> "documents.Result":
        """Submit, wait for the end, and fetch the result."""
        job = await self.submit(command, argv=argv, **spec)
        await self.wait(job["job_id"])
        return await self.result(job["job_id"])

    async def job(self, job_id: int) -> "documents.Job":
        """The job as it was asked for."""
        job: documents.Job = await self._connection.ask("GET", f"/api/jobs/{job_id}")
        return job

    def jobs(self, **query: Filter) -> "AsyncIterator[documents.Job]":
        """All jobs that the filters mean, page by page: `state="queued,running"`, `label=["team:web"]`, `sort=…`.

        They are those of the list's query; `limit` is how many a page has.
        """
        return self._rows("jobs", query)

    async def jobs_page(self, **query: Filter) -> "documents.Jobs":
        """One page of jobs; its `next` is the link to the one that follows."""
        page: documents.Jobs = await self._connection.ask("GET", f"/api/jobs{_query(query)}")
        return page

    async def cancel(self, job_id: int) -> "documents.Status":
        """Ask for the job's end. It may be asked for again while it is under way."""
        status: documents.Status = await self._connection.ask("POST", f"/api/jobs/{job_id}/cancel")
        return status

    async def signal(self, job_id: int, name: str) -> "documents.Status":
        """Send a signal (`SIGHUP`) to the command's process group; it is never sent twice."""
        body = json.dumps({"signal": name}).encode()
        status: documents.Status = await self._connection.ask(
            "POST", f"/api/jobs/{job_id}/signal", body=body, headers=_JSON, idempotent=False
        )
        return status

    async def give(self, job_id: int, data: bytes, *, offset: int | None = None, end: bool = False) -> None:
        """Give a running command at most 1 MiB to read; `offset` is how much was given before, if that is known."""
        await self._connection.ask("POST", stdin.path(job_id, offset, end=end), body=data, idempotent=False)

    async def feed(self, job_id: int, source: AsyncIterable[bytes]) -> bool:
        """Give a command all of `source` and then the end of its input, each byte once; wait until it runs.

        False if the job is done before that. It must have been submitted with `stdin={"stream": True}`.
        """
        return await stdin.feed(self._connection, job_id, source)

    async def delete(self, job_id: int) -> None:
        """Remove a job that is done from the history, with its status and result."""
        await self._connection.ask("DELETE", f"/api/jobs/{job_id}", idempotent=False)

    async def delete_many(self, *, confirm: bool = False, **query: Filter) -> "documents.Removed":
        """Remove all jobs that the filters mean and that are done; without `confirm`, only say how many these are."""
        given = {**query, "confirm": "true"} if confirm else query
        try:
            removed: documents.Removed = await self._connection.ask(
                "DELETE", f"/api/jobs{_query(given)}", idempotent=False, silence=_VERY_LONG
            )
        except ClientError as error:
            if error.kind != "unconfirmed" or not error.problem:
                raise
            return {"deleted": error.problem.get("deleted", 0), "kept": error.problem.get("kept", 0)}
        return removed

    # Statuses

    async def status(self, job_id: int) -> "documents.Status":
        """How far the job is."""
        status: documents.Status = await self._connection.ask("GET", f"/api/statuses/{job_id}")
        return status

    def statuses(self, **query: Filter) -> "AsyncIterator[documents.Status]":
        """All statuses that the filters mean, page by page."""
        return self._rows("statuses", query)

    async def wait(self, job_id: int) -> "documents.Status":
        """Return its status once the job is done."""
        clock = asyncio.get_running_loop().time
        while True:
            asked = clock()
            status: documents.Status = await self._connection.ask(
                "GET", f"/api/statuses/{job_id}", headers={"Prefer": f"wait={_LONG}"}, silence=_LONG + SILENCE
            )
            if status["done"]:
                return status
            # One that did not wait (it shuts down, or a proxy dropped the header) is not asked without end.
            await asyncio.sleep(max(0.0, _BRIEF - (clock() - asked)))

    def follow(self, job_id: int, *, after: str = "") -> AsyncGenerator[Event, None]:
        """Every event of the job: what it writes, to the byte, and how it stands, until it is done.

        From the start, or after the place of an earlier event (its `id`). It goes on over broken connections and
        restarts of the server; nothing is missed or told twice.
        """
        return streams.follow(self._connection, job_id, after)

    def changes(self, *, after: str = "") -> AsyncGenerator[Change, None]:
        """Every change of any job's status, from now on, without end."""
        return streams.changes(self._connection, after)

    async def output(
        self, job_id: int, *, stream: Stream | None = None, tail: int | None = None
    ) -> AsyncIterator[bytes]:
        """What the job has written so far: both streams as they arrived, or one; all of it, or its last lines."""
        query = _query({"stream": stream, "tail": tail})
        async with self._connection.answer("GET", f"/api/statuses/{job_id}/output{query}") as response:
            async for piece in response.content.iter_any():
                yield piece

    async def output_size(self, job_id: int, *, stream: Stream | None = None, tail: int | None = None) -> int:
        """How many bytes `output` would give."""
        path = f"/api/statuses/{job_id}/output{_query({'stream': stream, 'tail': tail})}"
        return await self._connection.measure(path)

    # Results

    async def result(self, job_id: int, *, attempt: int | None = None) -> "documents.Result":
        """How the job ended and what it wrote as text; the last attempt's, unless another is asked for."""
        result: documents.Result = await self._connection.ask("GET", _result(job_id, attempt))
        return result

    def results(self, **query: Filter) -> "AsyncIterator[documents.Result]":
        """All results that the filters mean, page by page; their texts are cut at 4 KiB."""
        return self._rows("results", query)

    def stdout(self, job_id: int, *, attempt: int | None = None) -> AsyncIterator[bytes]:
        """Every stored byte that a job which is done wrote there."""
        return streams.pieces(self._connection, f"{_result(job_id, attempt)}/stdout")

    def stderr(self, job_id: int, *, attempt: int | None = None) -> AsyncIterator[bytes]:
        """Every stored byte that a job which is done wrote there."""
        return streams.pieces(self._connection, f"{_result(job_id, attempt)}/stderr")

    async def delete_result(self, job_id: int) -> None:
        """Remove the result of a job that is done; the job stays."""
        await self._connection.ask("DELETE", f"/api/results/{job_id}", idempotent=False)

    # Queues

    async def queues(self) -> "documents.Queues":
        """Every queue, and how many of its jobs stand where."""
        queues: documents.Queues = await self._connection.ask("GET", "/api/queues")
        return queues

    async def pause(self, queue: str) -> "documents.Queue":
        """Start nothing new of this queue; what runs goes on."""
        paused: documents.Queue = await self._connection.ask("POST", f"/api/queues/{quote(queue, safe='')}/pause")
        return paused

    async def resume(self, queue: str) -> "documents.Queue":
        """Start jobs of this queue again."""
        resumed: documents.Queue = await self._connection.ask("POST", f"/api/queues/{quote(queue, safe='')}/resume")
        return resumed

    async def pause_all(self) -> "documents.Queues":
        """Start nothing new of any queue."""
        queues: documents.Queues = await self._connection.ask("POST", "/api/queues/pause")
        return queues

    async def resume_all(self) -> "documents.Queues":
        """Start jobs again, but for queues that are paused by themselves."""
        queues: documents.Queues = await self._connection.ask("POST", "/api/queues/resume")
        return queues

    async def _rows(self, kind: str, query: Mapping[str, Filter]) -> AsyncIterator[Any]:
        link: str | None = f"/api/{kind}{_query(query)}"
        while link:
            page = await self._connection.ask("GET", link)
            for row in page[kind]:
                yield row
            link = page["next"]


def _result(job_id: int, attempt: int | None) -> str:
    return f"/api/results/{job_id}" + (f"/attempts/{attempt}" if attempt is not None else "")


def _query(given: Mapping[str, Filter | None]) -> str:
    query = urlencode({name: value for name, value in given.items() if value is not None}, doseq=True)
    return f"?{query}" if query else ""
