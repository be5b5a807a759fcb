"""Both transports against a server that answers as the test says, byte by byte: they report the same."""

import asyncio
import inspect
import json
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shellrunner.client import Client, ClientError, OutputReceived
from shellrunner.client.blocking_transport import BlockingTransport, run
from tests.support.service import Service
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import WAIT_TIMEOUT

BODY = b'{"jobs":[],"queue":"a","queues":[],"next":null,"job_id":1,"done":false}'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
TRANSPORTS: dict[str, Any] = {"aiohttp": None, "blocking": BlockingTransport}
each_transport = pytest.mark.parametrize("transport", TRANSPORTS)

Call = Callable[[Client], Any]


class ScriptedServer:
    """Accepts one connection for each list of responses, sends one per request, and then closes or resets it."""

    def __init__(self, *scripts: Sequence[bytes], resets: bool = False) -> None:
        self.requests: list[bytes] = []
        self._resets = resets
        self.has_closed = threading.Event()  # the first connection
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, args=[scripts])

    def __enter__(self) -> "ScriptedServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._thread.join(WAIT_TIMEOUT)

    def _serve(self, scripts: Sequence[Sequence[bytes]]) -> None:
        for script in scripts:
            connection = self._listener.accept()[0]
            with connection:
                connection.settimeout(WAIT_TIMEOUT)
                for response in script:
                    self.requests.append(_read_request(connection))
                    connection.sendall(response)
                if self._resets:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.has_closed.set()


def _read_request(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as file:
        lines = list(iter(file.readline, b"\r\n"))
        lengths = [int(line.split(b":")[1]) for line in lines if line.startswith(b"Content-Length:")]
        return b"".join([*lines, b"\r\n", file.read(sum(lengths))])


def call(url: str, transport: str, action: Call, **options: Any) -> Any:
    """Return what `action` returns over this transport; errors are not retried unless `options` say so."""

    async def use() -> Any:
        async with Client(url, make_transport=TRANSPORTS[transport], **{"retry_for": 0, **options}) as client:
            return await action(client)

    return run(use()) if transport == "blocking" else asyncio.run(use())


def error_of(url: str, transport: str, action: Call, **options: Any) -> ClientError:
    """Return the error of a call that fails."""
    with pytest.raises(ClientError) as caught:
        call(url, transport, action, **options)
    return caught.value


RESPONSES = {
    "closed": ([b""], "interrupted", "the connection to {url} broke: it was closed before the response"),
    "cut-off": (
        [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"],
        "interrupted",
        "the connection to {url} broke: it was closed before the end of the response",
    ),
    "cut-off-chunk": (
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{}"],
        "interrupted",
        "the connection to {url} broke: it was closed before the end of the response",
    ),
    "no-http": ([b"SSH-2.0-OpenSSH_9.2\r\n"], "foreign", "the response from {url} is not shellrunner's"),
    "no-json": (
        [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<br/>"],
        "foreign",
        "the response from {url} is not shellrunner's",
    ),
    "redirect": (
        [b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 5\r\n\r\n<br/>"],
        "foreign",
        "the response from {url} is not shellrunner's",
    ),
    "no-problem": (
        [b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"],
        "foreign",
        "{url} answered 502 Bad Gateway without a shellrunner problem document: check the address",
    ),
}  # fmt: skip


@each_transport
@pytest.mark.parametrize("case", RESPONSES)
def test_a_response_that_is_not_the_server_s_is_the_same_error(transport: str, case: str) -> None:
    """What is cut off, not HTTP, not JSON or a redirect is reported in the same words, after one request."""
    script, kind, detail = RESPONSES[case]
    with ScriptedServer(script) as server:
        error = error_of(server.url, transport, lambda client: client.signal(1, "SIGHUP"))
    assert (error.kind, error.detail.partition(": check")[0]) == (
        kind, detail.format(url=server.url).partition(": check")[0]
    )  # fmt: skip
    assert len(server.requests) == 1


# How often an answer is lost, at each of its bytes; with a reset, those that have not been read are lost, too.
CUTS = [[OK[:size]] for size in range(len(OK))]
RETRIED: dict[str, tuple[Call, bytes]] = {
    "GET": (lambda client: client.job(1), BODY),
    "HEAD": (lambda client: client.output_size(1), b""),
    "PUT": (lambda client: client.set_queue("a", max_running=1), BODY),
    "POST": (lambda client: client.submit("true"), BODY),
}
SENT_ONCE: dict[str, Call] = {
    "POST": lambda client: client.signal(1, "SIGHUP"),
    "PATCH": lambda client: client.edit(1, {"priority": 1}),
    "DELETE": lambda client: client.delete_many(confirm=True, q="a"),
}


# The methods that return a document or its rows, and a key without which it is none.
RETURNING: dict[str, tuple[str, Call]] = {
    "index": ("jobs", lambda client: client.index()),
    "submit": ("job_id", lambda client: client.submit("true")),
    "submit_many": ("jobs", lambda client: client.submit_many([])),
    "run": ("job_id", lambda client: client.run("true")),
    "again": ("job_id", lambda client: client.again(1)),
    "edit": ("job_id", lambda client: client.edit(1, {})),
    "job": ("job_id", lambda client: client.job(1)),
    "jobs": ("jobs, next", lambda client: anext(client.jobs())),
    "jobs_page": ("jobs, next", lambda client: client.jobs_page()),
    "cancel": ("done", lambda client: client.cancel(1)),
    "cancel_many": ("cancelled", lambda client: client.cancel_many(confirm=True)),
    "pause_job": ("done", lambda client: client.pause_job(1)),
    "resume_job": ("done", lambda client: client.resume_job(1)),
    "signal": ("done", lambda client: client.signal(1, "SIGHUP")),
    "resize": ("done", lambda client: client.resize(1, 2, 3)),
    "delete_many": ("deleted, kept", lambda client: client.delete_many(confirm=True)),
    "status": ("done", lambda client: client.status(1)),
    "statuses": ("statuses, next", lambda client: anext(client.statuses())),
    "wait": ("done", lambda client: client.wait(1)),
    "find_output": ("matches, next", lambda client: anext(client.find_output(1, "a"))),
    "output_line": ("line, position", lambda client: client.output_line(1)),
    "usage": ("rss_bytes", lambda client: client.usage(1)),
    "usages": ("usages", lambda client: client.usages()),
    "result": ("ending", lambda client: client.result(1)),
    "results": ("results, next", lambda client: anext(client.results())),
    "queues": ("queues", lambda client: client.queues()),
    "queue": ("queue", lambda client: client.queue("a")),
    "set_queue": ("queue", lambda client: client.set_queue("a")),
    "pause": ("queue", lambda client: client.pause("a")),
    "resume": ("queue", lambda client: client.resume("a")),
    "pause_all": ("queues", lambda client: client.pause_all()),
    "resume_all": ("queues", lambda client: client.resume_all()),
    "workers": ("workers", lambda client: client.workers()),
    "worker": ("host", lambda client: client.worker("a")),
    "drain_worker": ("host", lambda client: client.drain_worker("a")),
    "resume_worker": ("host", lambda client: client.resume_worker("a")),
    "remove_worker": ("lost", lambda client: client.remove_worker("a")),
    "keepers": ("keepers", lambda client: client.keepers()),
    "end_keeper": ("keepers", lambda client: client.end_keeper(1)),
}
RETURNING_NONE = {"delete", "delete_result", "delete_queue", "write_stdin", "pipe_stdin", "open_stdin"}
RETURNING_BYTES_OR_EVENTS = {"follow", "changes", "output", "output_size", "stdout", "stderr"}


@pytest.mark.parametrize("answer", [b"{}", b"[]"])
def test_an_answer_without_its_keys_is_an_error_that_names_them(answer: bytes) -> None:
    """Nothing is made up for a key that is missing, and no KeyError comes out of a method."""
    methods = {name for name, _ in inspect.getmembers(Client, inspect.isfunction) if not name.startswith("_")}
    assert methods == {*RETURNING, *RETURNING_NONE, *RETURNING_BYTES_OR_EVENTS}
    script = [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + answer] * len(RETURNING)

    async def check(client: Client) -> None:
        for keys, action in RETURNING.values():
            with pytest.raises(ClientError) as caught:
                await action(client)
            assert caught.value.kind == "foreign"
            assert caught.value.detail.endswith(f" is not shellrunner's (missing: {keys}): check the address")

    with ScriptedServer(*([response] for response in script)) as server:
        call(server.url, "blocking", check)


@each_transport
def test_a_size_that_is_not_known_is_an_error(transport: str) -> None:
    """A proxy has removed the length: it is not taken for 0."""
    response = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    with ScriptedServer([response], [response]) as server:
        error = error_of(server.url, transport, lambda client: client.output_size(1))
    assert (error.kind, "(missing: Content-Length)" in error.detail) == ("foreign", True)
    assert [request.split(b" ")[0] for request in server.requests] == [b"HEAD", b"GET"]


def test_a_refusal_without_the_number_is_an_error_that_names_it() -> None:
    """Without `confirm`, how many jobs match is in the problem; a problem without that is not taken for none."""
    problem = b'{"type":"/problems/unconfirmed","detail":"repeat it"}'
    response = b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%s" % (len(problem), problem)
    for action, keys in (
        (lambda client: client.cancel_many(), "cancelled"),
        (lambda client: client.delete_many(), "deleted, kept"),
    ):
        with ScriptedServer([response]) as server:
            error = error_of(server.url, "blocking", action)
        assert (error.kind, f"(missing: {keys})" in error.detail) == ("foreign", True)


@pytest.mark.heavy
@each_transport
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("verb", RETRIED)
def test_an_answer_that_is_cut_at_any_byte_is_asked_for_again(
    transport: str, resets: bool, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off or reset within head or body, it is none: the same bytes are sent again until the answer is whole."""
    monkeypatch.setattr("shellrunner.client.retry._INITIAL_DELAY", 0.0)
    action, body = RETRIED[verb]
    cuts = CUTS if body else CUTS[: -len(BODY)]
    with ScriptedServer(*cuts, [OK.replace(BODY, body)], resets=resets) as server:
        answer = call(server.url, transport, action, retry_for=60)
    assert answer == (json.loads(body) if body else len(BODY))
    assert (len(server.requests), len(set(server.requests))) == (len(cuts) + 1, 1)


@pytest.mark.heavy
@each_transport
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("verb", SENT_ONCE)
def test_what_is_sent_once_is_sent_once_wherever_its_answer_is_cut(transport: str, resets: bool, verb: str) -> None:
    """Whether it was done is not known: that is the error, and the request is not sent again by any layer."""

    async def send(client: Client) -> None:
        for _ in CUTS:
            with pytest.raises(ClientError) as caught:
                await SENT_ONCE[verb](client)
            assert caught.value.kind == "interrupted"

    with ScriptedServer(*CUTS, resets=resets) as server:
        call(server.url, transport, send, retry_for=60)
    assert len(server.requests) == len(CUTS)


@each_transport
@pytest.mark.parametrize("frame", ["Content-Length: 6\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"])
def test_output_that_is_cut_off_is_no_end(transport: str, frame: str) -> None:
    """Output of which bytes are missing goes on with the next one; if nothing more comes, that is an error."""

    async def read(client: Client) -> bytes:
        return b"".join([data async for data in client.output(1)])

    begun, rest = (f"HTTP/1.1 200 OK\r\n{part}".encode() for part in (frame, "Content-Length: 3\r\n\r\ndef"))
    with ScriptedServer([begun], [rest]) as server:
        assert call(server.url, transport, read, retry_for=60) == b"abcdef"
    assert server.requests[1].startswith(b"GET /api/statuses/1/output?from=3 ")
    with ScriptedServer([begun]) as server:
        assert error_of(server.url, transport, read).kind == "interrupted"


def test_an_interim_response_is_not_taken_for_the_response() -> None:
    """What http.client does not skip is an error, and no document without content."""
    with ScriptedServer([b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK]) as server:
        assert error_of(server.url, "blocking", lambda client: client.queues()).kind == "foreign"


@each_transport
def test_a_connection_that_cannot_be_made_is_the_same_error(transport: str, tmp_path: Path) -> None:
    """A refused port, a missing socket and an unknown host are unreachable, with the system's reason."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    for url, reason in (
        (f"http://127.0.0.1:{port}", "Connection refused"),
        (f"unix:{tmp_path}/none", "No such file or directory"),
    ):
        error = error_of(url, transport, lambda client: client.queues())
        assert (error.kind, error.detail) == ("unreachable", f"cannot reach {url}: {reason}")
    error = error_of("http://no-such-host.invalid", transport, lambda client: client.queues())
    assert error.kind == "unreachable"


@each_transport
def test_what_a_request_has(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the token, the path within a prefix, and the body; no proxy is used, and no cookie comes back."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    reply = OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=b\r\n\r\n")

    async def twice(client: Client) -> None:
        await client.jobs_page(label=["a b", "я"])
        await client.submit("true", key="k")

    with ScriptedServer([reply, reply]) as server:
        call(f"{server.url}/pre fix/", transport, twice, token="secret")
    get, post = server.requests
    assert get.startswith(b"GET /pre%20fix/api/jobs?label=a+b&label=%D1%8F HTTP/1.1\r\n")
    assert post.startswith(b"POST /pre%20fix/api/jobs HTTP/1.1\r\n")
    assert post.endswith(b'\r\n\r\n{"command": "true"}')
    for request in (get, post):
        lines = request.split(b"\r\n\r\n")[0].split(b"\r\n")
        assert {b"Authorization: Bearer secret", b"User-Agent: shellrunner"} <= set(lines)
        assert [line for line in lines if line.startswith(b"Accept-Encoding:")] == [b"Accept-Encoding: identity"]
        assert f"Host: {server.url.removeprefix('http://')}".encode() in lines
        assert not any(line.lower().startswith(b"cookie:") for line in lines)


def test_a_connection_that_was_kept_and_has_been_closed_is_made_again() -> None:
    """The server closes an idle connection: the next request has a new one, and is sent once."""

    async def twice(client: Client) -> None:
        await client.queues()
        assert server.has_closed.wait(WAIT_TIMEOUT)
        await client.signal(1, "SIGHUP")

    with ScriptedServer([OK], [OK]) as server:
        call(server.url, "blocking", twice)
    assert [request.split(b" ")[0] for request in server.requests] == [b"GET", b"POST"]


@each_transport
def test_only_what_may_be_repeated_is_repeated_at_once(transport: str) -> None:
    """A kept connection breaks under a request: a GET is sent again at once, a signal and a DELETE are not."""

    async def twice(client: Client, second: Call) -> None:
        await client.queues()
        await second(client)

    with ScriptedServer([OK, b""], [OK]) as server:
        call(server.url, transport, partial(twice, second=lambda client: client.queues()))
    assert len(server.requests) == 3
    for action in SENT_ONCE.values():
        with ScriptedServer([OK, b""]) as server:
            error = error_of(server.url, transport, partial(twice, second=action))
        assert (error.kind, len(server.requests)) == ("interrupted", 2)


def test_the_caller_is_called_while_a_response_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """`on_idle` is called until the time limit, when the connection counts as broken; and during retries."""
    monkeypatch.setattr("shellrunner.client.blocking_transport._IDLE_INTERVAL", 0.01)
    idle: list[None] = []
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        silent = threading.Thread(target=lambda: kept.append(listener.accept()[0]))
        silent.start()

        async def use() -> None:
            transport = partial(BlockingTransport, on_idle=lambda: idle.append(None))
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            async with Client(url, retry_for=0, make_transport=transport) as client:
                await client._requester.request("GET", "/", read_timeout=0.1)

        with pytest.raises(ClientError, match="broke: no response in time"):
            run(use())
        silent.join(WAIT_TIMEOUT)
    kept.pop().close()
    assert len(idle) >= 3


def test_what_requires_an_event_loop_is_an_error_and_does_not_hang() -> None:
    """`run` refuses a coroutine that suspends."""
    with pytest.raises(RuntimeError, match="requires an event loop"):
        run(asyncio.sleep(0))


@pytest.mark.asyncio(loop_scope="session")
async def test_a_blocking_client_does_what_the_other_does(shared: Service, wire: TcpProxy) -> None:
    """Plain calls, pages, downloads, streams that break and are resumed, and input, without an event loop."""
    written = b"x" * 200_000

    async def chunks() -> Any:
        yield written

    async def use() -> Any:
        async with Client(wire.url, make_transport=BlockingTransport) as client:
            job = await client.submit("cat; echo error >&2", stdin={"stream": True}, labels={"of": "blocking"})
            assert await client.pipe_stdin(job["job_id"], chunks())
            assert (await client.wait(job["job_id"]))["ending"] == "exited"
            wire.breaks = [70_000, 50_000, 30_000]
            assert b"".join([data async for data in client.stdout(job["job_id"])]) == written
            wire.breaks = [9_000, 50_000, 20_000]
            events = [event async for event in client.follow(job["job_id"])]
            output = [event for event in events if isinstance(event, OutputReceived)]
            assert b"".join(event.data for event in output if event.stream == "stdout") == written
            assert [row["job_id"] async for row in client.jobs(label="of:blocking", limit=1)] == [job["job_id"]]
            assert await client.output_size(job["job_id"]) == len(written) + len("error\n")
            with pytest.raises(ClientError) as caught:
                await client.job(10**17)
            return caught.value.kind

    assert await asyncio.to_thread(run, use()) == "no-such-job"
