"""Both transports against a server that answers as the test says, byte by byte: they report the same."""

import asyncio
import socket
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

BODY = b'{"jobs":[],"queues":[],"job_id":1,"done":false}'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
TRANSPORTS: dict[str, Any] = {"aiohttp": None, "blocking": BlockingTransport}
each_transport = pytest.mark.parametrize("transport", TRANSPORTS)

Call = Callable[[Client], Any]


class ScriptedServer:
    """Accepts one connection for each list of responses, sends one per request, and then closes it."""

    def __init__(self, *scripts: Sequence[bytes]) -> None:
        self.requests: list[bytes] = []
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


def test_only_what_may_be_repeated_is_repeated_at_once() -> None:
    """A kept connection breaks under a request: a GET is sent again at once, a signal is not."""

    async def twice(client: Client, second: Call) -> None:
        await client.queues()
        await second(client)

    with ScriptedServer([OK, b""], [OK]) as server:
        call(server.url, "blocking", partial(twice, second=lambda client: client.queues()))
    assert len(server.requests) == 3
    with ScriptedServer([OK, b""]) as server:
        error = error_of(server.url, "blocking", partial(twice, second=lambda client: client.signal(1, "SIGHUP")))
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
            wire.budgets = [70_000, 50_000, 30_000]
            assert b"".join([data async for data in client.stdout(job["job_id"])]) == written
            wire.budgets = [9_000, 50_000, 20_000]
            events = [event async for event in client.follow(job["job_id"])]
            output = [event for event in events if isinstance(event, OutputReceived)]
            assert b"".join(event.data for event in output if event.stream == "stdout") == written
            assert [row["job_id"] async for row in client.jobs(label="of:blocking", limit=1)] == [job["job_id"]]
            assert await client.output_size(job["job_id"]) == len(written) + len("error\n")
            with pytest.raises(ClientError) as caught:
                await client.job(10**17)
            return caught.value.kind

    assert await asyncio.to_thread(run, use()) == "no-such-job"
