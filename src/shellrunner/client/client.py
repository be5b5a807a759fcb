"""The API as typed async methods, one for each route: the counterpart of the server's route table.

A `Client` is owned by its creator. Must not know the server's code, except the types of its documents.
"""

import json
import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Self, Unpack
from urllib.parse import quote, urlencode

from shellrunner.client import client_error, stdin, streams
from shellrunner.client.address import ServerAddress
from shellrunner.client.client_error import ClientError
from shellrunner.client.events import Change, Event
from shellrunner.client.request_types import Filter, JobOptions, JobRequest, Stream
from shellrunner.client.requester import READ_TIMEOUT, Requester, RetryListener, RetryTimes
from shellrunner.client.server_identity import ServerIdentity
from shellrunner.client.transport import Endpoint, Transport, TransportFactory

if TYPE_CHECKING:
    import ssl

    from shellrunner.wire import documents

DEFAULT_URL: Final = "http://127.0.0.1:8000"
_MAX_WAIT: Final = 55  # seconds that the server lets a request wait at most (Prefer: wait=N)
_MIN_POLL_INTERVAL: Final = 1.0
_BULK_TIMEOUT: Final = 3600.0  # it may change a million jobs before it responds
_JSON_HEADERS: Final = {"Content-Type": "application/json"}


class Client:
    """A connection to one server. The methods raise `ClientError` and no other error of their own.

    When a connection breaks, idempotent requests are retried until the server has been unreachable for `retry_for`
    seconds. One that was never reachable is waited for `retry_first_for` seconds. `on_retry` is called with the error
    before each retry, and with None once the server has responded again.

    Requests are sent by aiohttp, unless `make_transport` makes something else that sends them.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        token: str | None = None,
        retry_for: float = 60.0,
        retry_first_for: float = 0.0,
        on_retry: RetryListener | None = None,
        tls: "ssl.SSLContext | None" = None,
        server_user: str | int | None = None,
        make_transport: TransportFactory | None = None,
    ) -> None:
        """`url` is http://…, https://… or unix:/PATH. Requests are sent by aiohttp, unless by `make_transport`.

        Over http on this machine, and on a Unix socket, nothing is sent unless the process that listens belongs to
        the caller's own user, to root, or to `server_user`: a name, a uid, or `*` for anybody.

        Raises:
            ValueError: `url` is not one of these, or there is no such user.
        """
        address = ServerAddress.parse(url)
        authorization = {"Authorization": f"Bearer {token}"} if token else {}
        # Not compressed by a proxy: positions and sizes are those of the bytes that are sent.
        headers = {"User-Agent": "shellrunner", "Accept-Encoding": "identity", **authorization}
        endpoint = Endpoint(address, headers, ServerIdentity(address, server_user), tls)
        transport = (make_transport or _aiohttp_transport)(endpoint)
        self._requester = Requester(address, transport, RetryTimes(retry_for, retry_first_for), on_retry)

    async def __aenter__(self) -> Self:
        """Open the client; connections are made on demand."""
        await self._requester.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close all connections."""
        await self._requester.__aexit__(*exc_info)

    @property
    def is_loopback(self) -> bool:
        """Whether the address leads to this machine: a Unix socket or loopback, whose port may still be forwarded."""
        return self._requester.address.is_loopback

    async def index(self) -> "documents.Index":
        """Return the entry points of the API."""
        index: documents.Index = await self._requester.request("GET", "/api", has="jobs")
        return index

    # Jobs

    async def submit(
        self,
        command: str | None = None,
        *,
        argv: Sequence[str] | None = None,
        key: str | None = None,
        **options: Unpack[JobOptions],
    ) -> "documents.Job":
        """Submit a job: a shell command line, or `argv` without a shell. Return once it is durably recorded.

        The request is retried when its response is lost, and still creates one job: the server recognizes it for 24
        hours by the idempotency key `key`, which is generated if it is not given.
        """
        given = {"command": command, "argv": argv, **options}
        body = {name: value for name, value in given.items() if value is not None}
        job: documents.Job = await self._submit("/api/jobs", body, key, has="job_id")
        return job

    async def submit_many(self, jobs: Sequence[JobRequest], *, key: str | None = None) -> "Sequence[documents.Job]":
        """Submit up to 1,000 jobs in one request, all or none; return them in the same order.

        Each is a mapping with the keys of a job: `{"command": "make docs", "timeout": 60}`. The request is retried as
        that of `submit` is, and its key stands for all of them.
        """
        submitted: documents.SubmittedJobs = await self._submit("/api/jobs/batch", {"jobs": jobs}, key, has="jobs")
        return submitted["jobs"]

    async def again(
        self, job_id: int, changes: Mapping[str, Any] | None = None, *, key: str | None = None
    ) -> "documents.Job":
        """Submit a job with the specification of an earlier one, changed by a merge patch (RFC 7396); return it.

        Values of variables and text for standard input are not kept: `changes` must give them, or leave them out by
        None. The request is retried as that of `submit` is.
        """
        job: documents.Job = await self._submit(f"/api/jobs/{job_id}/again", changes or {}, key, has="job_id")
        return job

    async def edit(self, job_id: int, changes: Mapping[str, Any]) -> "documents.Job":
        """Change a job that has not started, by a merge patch (RFC 7396): `{"held": False, "labels": {"a": None}}`.

        The request is never retried: if its response is lost, the job may have been changed, and have started since.
        """
        headers = {"Content-Type": "application/merge-patch+json"}
        content = json.dumps(changes, ensure_ascii=False).encode()
        job: documents.Job = await self._requester.request(
            "PATCH", f"/api/jobs/{job_id}", body=content, headers=headers, idempotent=False, has="job_id"
        )
        return job

    async def _submit(self, path: str, body: Mapping[str, Any], key: str | None, *, has: str) -> Any:
        headers = {**_JSON_HEADERS, "Idempotency-Key": f'"{key or os.urandom(16).hex()}"'}
        content = json.dumps(body, ensure_ascii=False).encode()
        return await self._requester.request("POST", path, body=content, headers=headers, has=has)

    async def run(
        self, command: str | None = None, *, argv: Sequence[str] | None = None, **options: Unpack[JobOptions]
    ) -> "documents.Result":
        """Submit a job, wait until it is done, and return its result."""
        job = await self.submit(command, argv=argv, **options)
        await self.wait(job["job_id"])
        return await self.result(job["job_id"])

    async def job(self, job_id: int) -> "documents.Job":
        """Return the job as it was submitted."""
        job: documents.Job = await self._requester.request("GET", f"/api/jobs/{job_id}", has="job_id")
        return job

    def jobs(self, /, **query: Filter) -> "AsyncIterator[documents.Job]":
        """Yield all jobs that match the filters, page by page: `state="queued,running"`, `label=["team:web"]`.

        The filters, `sort` and `fields` are the query parameters of GET /api/jobs; `limit` is the size of a page.
        """
        return self._rows("jobs", query)

    async def jobs_page(self, /, **query: Filter) -> "documents.Jobs":
        """Return one page of jobs; its `next` is the link to the following page, or None."""
        page: documents.Jobs = await self._requester.request(
            "GET", f"/api/jobs{_query_string(query)}", has="jobs next"
        )
        return page

    async def cancel(self, job_id: int) -> "documents.Status":
        """Request that the job be cancelled; return its status. Repeating the request is harmless."""
        status: documents.Status = await self._requester.request("POST", f"/api/jobs/{job_id}/cancel", has="done")
        return status

    async def pause_job(self, job_id: int) -> "documents.Status":
        """Stop a running command with all of its processes (SIGSTOP)."""
        status: documents.Status = await self._requester.request(
            "POST", f"/api/jobs/{job_id}/pause", idempotent=False, has="done"
        )
        return status

    async def resume_job(self, job_id: int) -> "documents.Status":
        """Have a paused command go on."""
        status: documents.Status = await self._requester.request(
            "POST", f"/api/jobs/{job_id}/resume", idempotent=False, has="done"
        )
        return status

    async def signal(self, job_id: int, name: str, *, to: str = "group") -> "documents.Status":
        """Send a signal (`SIGHUP`) to the command's process group, or to every group of the job (`to="tree"`).

        The request is never retried.
        """
        body = json.dumps({"signal": name, "to": to} if to != "group" else {"signal": name}).encode()
        status: documents.Status = await self._requester.request(
            "POST", f"/api/jobs/{job_id}/signal", body=body, headers=_JSON_HEADERS, idempotent=False, has="done"
        )
        return status

    async def write_stdin(self, job_id: int, data: bytes, *, offset: int | None = None, end: bool = False) -> None:
        """Send at most 1 MiB to a running command's standard input; with `end`, the input ends after `data`.

        `offset` is the number of bytes sent before: the server refuses `data` if it has received another number.
        """
        path = stdin.stdin_path(job_id, offset, end=end)
        await self._requester.request("POST", path, body=data, headers=stdin.HEADERS, idempotent=False)

    async def pipe_stdin(self, job_id: int, source: AsyncIterable[bytes]) -> bool:
        """Send a command all of `source`, each byte once, and then the end of its input; wait until it runs.

        Return False if the job is done before that. It must have been submitted with `stdin={"stream": True}`.
        """
        return await stdin.pipe(self._requester, job_id, source)

    def open_stdin(self, job_id: int, *, writer: str | None = None) -> stdin.StdinWriter:
        """Return an object that writes to a job's input piece by piece, each byte once, as it is typed.

        `writer` is the name under which the same client follows the job, where several may type.
        """
        return stdin.StdinWriter(self._requester, job_id, writer)

    async def resize(self, job_id: int, rows: int, columns: int) -> "documents.Status":
        """Set the size of the terminal on which a command runs; the programs in its foreground get SIGWINCH."""
        body = json.dumps({"rows": rows, "columns": columns}).encode()
        status: documents.Status = await self._requester.request(
            "POST", f"/api/jobs/{job_id}/tty", body=body, headers=_JSON_HEADERS, has="done"
        )
        return status

    async def delete(self, job_id: int) -> None:
        """Delete a job that is done, with its status and result."""
        await self._requester.request("DELETE", f"/api/jobs/{job_id}", idempotent=False)

    async def delete_many(self, /, *, confirm: bool = False, **query: Filter) -> "documents.Removed":
        """Delete all done jobs that match the filters; without `confirm`, only return how many these are."""
        counts = await self._change_many("DELETE", "/api/jobs", query, confirm=confirm, has="deleted kept")
        return {"deleted": counts["deleted"], "kept": counts["kept"]}

    async def cancel_many(self, /, *, confirm: bool = False, **query: Filter) -> "documents.Cancelled":
        """Cancel all jobs that match the filters and are not done; without `confirm`, only return how many."""
        counts = await self._change_many("POST", "/api/jobs/cancel", query, confirm=confirm, has="cancelled")
        return {"cancelled": counts["cancelled"]}

    async def _change_many(
        self, method: str, path: str, query: Mapping[str, Filter], *, confirm: bool, has: str
    ) -> Mapping[str, Any]:
        """Return how many jobs were changed or, without `confirm`, would be."""
        target = path + _query_string({**query, "confirm": "true"} if confirm else query)
        try:
            counts: Mapping[str, Any] = await self._requester.request(
                method, target, idempotent=False, read_timeout=_BULK_TIMEOUT, has=has
            )
        except ClientError as error:
            if error.kind != "unconfirmed" or not error.problem:
                raise
            client_error.check_keys(self._requester.address, error.problem, has)
            return error.problem
        return counts

    # Statuses

    async def status(self, job_id: int) -> "documents.Status":
        """Return the job's status."""
        status: documents.Status = await self._requester.request("GET", f"/api/statuses/{job_id}", has="done")
        return status

    def statuses(self, /, **query: Filter) -> "AsyncIterator[documents.Status]":
        """Yield all statuses that match the filters, page by page; see `jobs`."""
        return self._rows("statuses", query)

    async def wait(
        self, job_id: int, *, on_status: "Callable[[documents.Status], object] | None" = None
    ) -> "documents.Status":
        """Wait until the job is done, and return its status.

        Meanwhile `on_status` is called from time to time with the status of a job that is not done.
        """
        headers = {"Prefer": f"wait={_MAX_WAIT}"}
        while True:
            sent = self._requester.time()
            status: documents.Status = await self._requester.request(
                "GET",
                f"/api/statuses/{job_id}",
                headers=headers,
                read_timeout=_MAX_WAIT + READ_TIMEOUT,
                has="done",
            )
            if status["done"]:
                return status
            if on_status is not None:
                on_status(status)
            # A server that did not wait (it is shutting down, or a proxy dropped the header) is polled at intervals.
            await self._requester.sleep(max(0.0, _MIN_POLL_INTERVAL - (self._requester.time() - sent)))

    def follow(self, job_id: int, *, after: str = "", writer: str | None = None) -> AsyncGenerator[Event, None]:
        """Yield every event of the job until it is done: its output, to the byte, and the changes of its status.

        Start at the beginning, or after the position of an earlier event (its `id`). The stream is resumed when a
        connection breaks or the server restarts; nothing is missed or repeated. `writer` is the name under which this
        client types into the job (`open_stdin`).
        """
        return streams.follow(self._requester, job_id, after, writer)

    def changes(self, *, after: str = "") -> AsyncGenerator[Change, None]:
        """Yield every change of any job's status from now on, without end."""
        return streams.changes(self._requester, after)

    def output(
        self,
        job_id: int,
        *,
        stream: Stream | None = None,
        tail: int | None = None,
        start: int = 0,
        follow: bool = False,
    ) -> AsyncGenerator[bytes, None]:
        """Yield the output so far, or with `follow` until the job is done, exactly and each byte once.

        It is both streams as they arrived, or one; all of it, or its last `tail` lines, or what comes after the first
        `start` bytes of it. When a connection breaks it is resumed, unless `tail` is given.

        Raises:
            ValueError: `tail` is given together with `start` or `follow`.
        """
        if tail is not None and (start or follow):
            raise ValueError("tail cannot be combined with start or follow")
        if tail is not None:
            return streams.read_tail(self._requester, job_id, {"stream": stream, "tail": tail})
        read = streams.follow_output if follow else streams.read_output
        return read(self._requester, job_id, {"stream": stream}, start)

    async def output_size(self, job_id: int, *, stream: Stream | None = None, tail: int | None = None) -> int:
        """Return how many bytes `output` would yield."""
        return await self._requester.content_length(streams.output_path(job_id, {"stream": stream, "tail": tail}))

    async def usage(self, job_id: int) -> "documents.LiveUsage":
        """Return what the processes of a running job use."""
        usage: documents.LiveUsage = await self._requester.request(
            "GET", f"/api/statuses/{job_id}/usage", has="rss_bytes"
        )
        return usage

    async def usages(self) -> "documents.LiveUsages":
        """Return what the processes of all running jobs use."""
        usages: documents.LiveUsages = await self._requester.request("GET", "/api/statuses/usage", has="usages")
        return usages

    # Results

    async def result(self, job_id: int, *, attempt: int | None = None) -> "documents.Result":
        """Return the ending of the job, with its output as text; of the last attempt unless `attempt` is given."""
        result: documents.Result = await self._requester.request("GET", _result_path(job_id, attempt), has="ending")
        return result

    def results(self, /, **query: Filter) -> "AsyncIterator[documents.Result]":
        """Yield all results that match the filters, page by page, with at most 4 KiB of each stream; see `jobs`."""
        return self._rows("results", query)

    def stdout(self, job_id: int, *, attempt: int | None = None) -> AsyncIterator[bytes]:
        """Yield the stored bytes of a done job's standard output."""
        return streams.download(self._requester, f"{_result_path(job_id, attempt)}/stdout")

    def stderr(self, job_id: int, *, attempt: int | None = None) -> AsyncIterator[bytes]:
        """Yield the stored bytes of a done job's standard error."""
        return streams.download(self._requester, f"{_result_path(job_id, attempt)}/stderr")

    async def delete_result(self, job_id: int) -> None:
        """Delete the result of a job that is done, but not the job."""
        await self._requester.request("DELETE", f"/api/results/{job_id}", idempotent=False)

    async def find_output(
        self,
        job_id: int,
        text: str,
        *,
        stream: Stream | None = None,
        match_case: bool = False,
        backward: bool = False,
        start: int | None = None,
    ) -> AsyncGenerator["documents.OutputMatch", None]:
        """Yield the places where the output so far has a text, in order, from byte `start` on.

        With `backward`, those before byte `start`, the last one first.
        """
        flags = {"match_case": "true" if match_case else None, "backward": "true" if backward else None}
        query = _query_string({"find": text, "stream": stream, "from": start, **flags})
        link: str | None = f"/api/statuses/{job_id}/output{query}"
        while link is not None:
            page: documents.OutputMatches = await self._requester.request("GET", link, has="matches next")
            for match in page["matches"]:
                yield match
            link = page["next"]

    async def output_line(
        self, job_id: int, *, number: int | None = None, position: int | None = None, stream: Stream | None = None
    ) -> "documents.OutputLine":
        """Return where a line of the output begins, which line a byte is in or, without either, the last line."""
        query = _query_string({"number": number, "from": position, "stream": stream})
        path = f"/api/statuses/{job_id}/output/line{query}"
        found: documents.OutputLine = await self._requester.request("GET", path, has="line position")
        return found

    # Queues

    async def queues(self) -> "documents.Queues":
        """Return every queue with its numbers of jobs by state."""
        queues: documents.Queues = await self._requester.request("GET", "/api/queues", has="queues")
        return queues

    async def queue(self, queue: str) -> "documents.Queue":
        """Return a queue with its limits and numbers of jobs."""
        found: documents.Queue = await self._requester.request("GET", _queue_path(queue), has="queue")
        return found

    async def set_queue(
        self, queue: str, *, max_running: int | None = None, max_queued: int | None = None, new: bool = False
    ) -> "documents.Queue":
        """Set the limits of a queue (None: no limit), or make a new one; kept when the service restarts.

        With `new`, a queue that exists is an error (`precondition-failed`), and the request is never retried.
        """
        body = json.dumps({"max_running": max_running, "max_queued": max_queued}).encode()
        headers = {**_JSON_HEADERS, "If-None-Match": "*"} if new else _JSON_HEADERS
        changed: documents.Queue = await self._requester.request(
            "PUT", _queue_path(queue), body=body, headers=headers, idempotent=not new, has="queue"
        )
        return changed

    async def delete_queue(self, queue: str) -> None:
        """Remove a queue that the configuration does not name, and whose jobs are all done."""
        await self._requester.request("DELETE", _queue_path(queue), idempotent=False)

    async def pause(self, queue: str) -> "documents.Queue":
        """Pause a queue: no more of its jobs start, running ones continue."""
        paused: documents.Queue = await self._requester.request("POST", f"{_queue_path(queue)}/pause", has="queue")
        return paused

    async def resume(self, queue: str) -> "documents.Queue":
        """Resume a paused queue."""
        resumed: documents.Queue = await self._requester.request("POST", f"{_queue_path(queue)}/resume", has="queue")
        return resumed

    async def pause_all(self) -> "documents.Queues":
        """Pause all queues at once."""
        queues: documents.Queues = await self._requester.request("POST", "/api/queues/pause", has="queues")
        return queues

    async def resume_all(self) -> "documents.Queues":
        """Revoke `pause_all`; queues that were paused by name stay paused."""
        queues: documents.Queues = await self._requester.request("POST", "/api/queues/resume", has="queues")
        return queues

    # Workers

    async def workers(self) -> "documents.Workers":
        """Return the hosts that share the history, with what each runs; one, if it is in SQLite."""
        workers: documents.Workers = await self._requester.request("GET", "/api/workers", has="workers")
        return workers

    async def worker(self, host: str) -> "documents.Worker":
        """Return a host of the history."""
        found: documents.Worker = await self._requester.request("GET", _worker_path(host), has="host")
        return found

    async def drain_worker(self, host: str) -> "documents.Worker":
        """Drain a host: no more jobs start there, running ones continue; kept when its server restarts."""
        drained: documents.Worker = await self._requester.request("POST", f"{_worker_path(host)}/drain", has="host")
        return drained

    async def resume_worker(self, host: str) -> "documents.Worker":
        """Have a drained host start jobs again."""
        resumed: documents.Worker = await self._requester.request("POST", f"{_worker_path(host)}/resume", has="host")
        return resumed

    async def remove_worker(self, host: str, *, confirm: bool = False) -> int:
        """Remove a host that is not reachable and will not return; its running jobs are lost. Return their number.

        Without `confirm`, only return how many it runs.
        """
        counts = await self._change_many("DELETE", _worker_path(host), {}, confirm=confirm, has="lost")
        return int(counts["lost"])

    # Keepers

    async def keepers(self) -> "documents.Keepers":
        """Return the keepers that run commands which the history does not know: it was restored, or is a new one."""
        keepers: documents.Keepers = await self._requester.request("GET", "/api/keepers", has="keepers")
        return keepers

    async def end_keeper(self, keeper: int, host: str | None = None) -> "documents.Keepers":
        """Have such a keeper end its command, which takes a moment; `host` if several have one of this number."""
        path = f"/api/keepers/{keeper}" + _query_string({} if host is None else {"host": host})
        keepers: documents.Keepers = await self._requester.request("DELETE", path, has="keepers")
        return keepers

    async def _rows(self, kind: str, query: Mapping[str, Filter]) -> AsyncIterator[Any]:
        link: str | None = f"/api/{kind}{_query_string(query)}"
        while link:
            page = await self._requester.request("GET", link, has=f"{kind} next")
            for row in page[kind]:
                yield row
            link = page["next"]


def _aiohttp_transport(endpoint: Endpoint) -> Transport:
    # It takes 0.1 s to import, and programs that use another transport do without.
    from shellrunner.client.aiohttp_transport import AiohttpTransport  # noqa: PLC0415

    return AiohttpTransport(endpoint)


def _result_path(job_id: int, attempt: int | None) -> str:
    return f"/api/results/{job_id}" + (f"/attempts/{attempt}" if attempt is not None else "")


def _queue_path(name: str) -> str:
    return f"/api/queues/{quote(name, safe='')}"


def _worker_path(host: str) -> str:
    return f"/api/workers/{quote(host, safe='')}"


def _query_string(parameters: Mapping[str, Filter | None]) -> str:
    query = urlencode({name: value for name, value in parameters.items() if value is not None}, doseq=True)
    return f"?{query}" if query else ""
