"""The client covers every route and every error, as documented."""

import asyncio
import inspect
import re
import subprocess
import sys
from ast import literal_eval
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import shellrunner.client
from shellrunner.client import (
    Client,
    ClientError,
    JobDeleted,
    JobEnded,
    JobOptions,
    OutputReceived,
    ServerAddress,
    StatusChanged,
    StreamReset,
)
from shellrunner.model import JobSpec
from shellrunner.web import ROUTES
from tests.support.selected_service import IS_CLUSTER, new_service
from tests.support.service import Service
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import WAIT_TIMEOUT, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

NOT_IN_CLIENT = {"/api/openapi.json", "/api/session"}


@pytest.mark.heavy
async def test_the_documented_example_runs(shared: Service) -> None:
    """The example in the package's docstring prints what it shows, at the address of the test's service."""
    found = re.search(r"(?s)    import asyncio.*?asyncio\.run\(main\(\)\)", inspect.getdoc(shellrunner.client) or "")
    assert found is not None
    code = found[0]
    code = inspect.cleandoc("\n" + code).replace("http://localhost:8000", shared.url)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    lines = done.stdout.splitlines()
    assert (done.stderr, lines[:2]) == ("", ["0 Привет, мир", ""])
    assert r"stdout b'a\nb\n'" in lines
    assert any(line.endswith(" sort -u") for line in lines)
    assert lines[-1] == f"404; no-such-job; there is no job {10**17}"


async def test_the_documented_example_that_blocks_runs(shared: Service) -> None:
    """The first example in the package's docstring prints what it shows."""
    found = re.search(
        r"(?s)    from shellrunner.client import.*?\n\n(?=\S)", inspect.getdoc(shellrunner.client) or ""
    )
    assert found is not None
    code = inspect.cleandoc("\n" + found[0]).replace("http://localhost:8000", shared.url)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    first, *output, last = done.stdout.splitlines()
    assert (done.stderr, first, last) == ("", "0 Привет, мир", "exited")
    assert b"".join(literal_eval(line.removeprefix("stdout ")) for line in output) == b"1\n2\n3\n"


async def test_there_is_a_method_for_every_route(wire: TcpProxy) -> None:
    """A tour through the methods requests every route, and each method returns what its type says."""
    async with Client(wire.url) as client:
        await tour(client)
    patterns = {
        (route.verb, route.path): re.compile(re.sub(r"\{\w+(:[^{}]*(\{[^}]*\})?[^{}]*)?\}", "[^/?]+", route.path))
        for route in ROUTES
        if route.path.startswith("/api/") and route.path not in NOT_IN_CLIENT
    }
    asked = {(verb, path.partition("?")[0]) for verb, path in (line.split(" ") for line in wire.asked)}
    missing = [
        route
        for route, pattern in patterns.items()
        if not any(verb == route[0] and pattern.fullmatch(path) for verb, path in asked)
    ]
    assert missing == []


async def tour(client: Any) -> None:
    """Call every method once."""
    result = await client.run(
        "echo out; echo err >&2; exit 3", labels={"tour": "yes"}, retries={"max": 1, "delay": 0}
    )
    number = result["job_id"]
    assert (result["exit_code"], result["stdout"], result["attempt"]) == (3, "out\n", 2)
    assert (await client.job(number))["labels"] == {"tour": "yes"}
    assert [job["job_id"] async for job in client.jobs(label=["tour:yes"], limit=1)] == [number]
    assert (await client.jobs_page(label="tour:yes"))["next"] is None
    assert [status["done"] async for status in client.statuses(label="tour:yes")] == [True]
    assert [found["exit_code"] async for found in client.results(label="tour:yes", fields="exit_code")] == [3]
    assert [piece async for piece in client.output(number, stream="stderr", tail=1)] == [b"err\n"]
    assert await client.output_size(number) == 16
    assert [match["line"] async for match in client.find_output(number, "ERR", stream="stderr", backward=True)] == [
        2,
        1,
    ]
    assert (await client.output_line(number, number=2, stream="stdout"))["position"] == 4
    assert b"".join([piece async for piece in client.stdout(number)]) == b"out\n"
    assert b"".join([piece async for piece in client.stderr(number)]) == b"err\n"
    assert (await client.result(number, attempt=1))["attempt"] == 1
    assert b"".join([piece async for piece in client.stdout(number, attempt=1)]) == b"out\n"
    assert b"".join([piece async for piece in client.stderr(number, attempt=1)]) == b"err\n"
    together = await client.submit_many(
        [{"command": "echo one"}, {"argv": ["echo", "two"], "labels": {"batch": "1"}}]
    )
    assert [job["command"] for job in together] == ["echo one", "echo two"]
    for job in together:
        assert (await client.wait(job["job_id"]))["done"]
    await change(client, together[0]["job_id"])
    await talk(client)
    await type_into(client)
    await hold(client)
    assert await client.cancel_many(label="tour:yes") == {"cancelled": 0}
    assert await client.cancel_many(confirm=True, label="tour:yes") == {"cancelled": 0}
    assert await client.delete_many(label="tour:yes") == {"deleted": 1, "kept": 0}
    await client.delete_result(number)
    assert (await client.status(number))["result"] is None
    assert await client.delete_many(confirm=True, label="tour:yes") == {"deleted": 1, "kept": 0}


async def type_into(client: Any) -> None:
    """Type into a job on a terminal, and resize that."""
    number = (await client.submit("stty size; cat", stdin={"stream": True}, tty=True))["job_id"]
    await until(lambda: runs(client, number))
    assert (await client.resize(number, 30, 100))["tty"] == {"rows": 30, "columns": 100}
    await client.write_stdin(number, b"one\n")
    writer = client.open_stdin(number, writer="test")
    await writer.claim()  # which goes on behind what was written
    assert await writer.write(b"two\n")
    await client.write_stdin(number, b"three\n")
    assert await writer.write(b"four\n"), "another wrote in between"
    assert await writer.write(b"", end=True)
    await client.wait(number)
    assert (await client.result(number))["stdout"].endswith("one\r\ntwo\r\nthree\r\nfour\r\n")


async def change(client: Any, earlier: int) -> None:
    """Submit the same again, held; change it, which releases it."""
    job = await client.again(earlier, {"held": True, "labels": {"again": "1"}})
    assert (job["command"], job["again_of"], job["state"]) == ("echo one", earlier, "waiting")
    edited = await client.edit(job["job_id"], {"held": None, "name": "second", "labels": {"again": None}})
    assert (edited["name"], edited["labels"], edited["held"]) == ("second", {}, False)
    await client.wait(job["job_id"])


async def talk(client: Any) -> None:
    """Send input and a signal to a running job, cancel it, and delete it."""
    number = (await client.submit(argv=["cat"], stdin={"stream": True}))["job_id"]
    await until(lambda: runs(client, number))
    await client.write_stdin(number, b"hello", offset=0)
    async for event in client.follow(number):
        if isinstance(event, OutputReceived):
            assert event[:2] == ("stdout", b"hello")
            await client.signal(number, "SIGCONT")
            assert (await client.pause_job(number))["paused"] is True
            assert (await client.resume_job(number))["paused"] is False
            assert (await client.usage(number))["processes"] >= 0
            assert (await client.usages())["processors"] >= 1
            await client.cancel(number)
    assert isinstance(event, JobEnded)
    assert event.end["ending"] == "cancelled"
    async with aclosing(client.changes(after="0")) as changes:
        assert isinstance(await anext(changes), StatusChanged | JobDeleted | StreamReset)
    await client.delete(number)


async def runs(client: Any, number: Any) -> bool:
    """Return whether the job is running."""
    return bool((await client.status(number))["state"] == "running")


async def hold(client: Any) -> None:
    """Pause and resume queues."""
    assert (await client.pause("one"))["paused"] is True
    assert (await client.resume("one"))["paused"] is False
    assert (await client.pause_all())["paused"] is True
    assert (await client.resume_all())["paused"] is False
    assert (await client.set_queue("made", max_running=3))["limit"] == 3
    assert (await client.queue("made"))["configured"] is False
    await client.delete_queue("made")
    worker = (await client.workers())["workers"][-1]
    host = worker["host"]
    assert (await client.worker(host))["joined"] == worker["joined"]
    if IS_CLUSTER:
        assert (await client.drain_worker(host))["draining"] is True
        assert (await client.resume_worker(host))["draining"] is False
        with pytest.raises(ClientError, match="worker"):
            await client.remove_worker(host, confirm=True)  # it lives
    alone = (client.drain_worker, client.resume_worker, partial(client.remove_worker, confirm=True))
    for only in () if IS_CLUSTER else alone:
        with pytest.raises(ClientError, match="only this host"):
            await only(host)
    assert await client.keepers() == {"keepers": []}
    with pytest.raises(ClientError, match="999999"):
        await client.end_keeper(999_999)
    assert {queue["queue"] for queue in (await client.queues())["queues"]} == {"default", "one"}


@pytest.mark.parametrize(
    ("ask", "status", "kind", "detail"),
    [
        (lambda client: client.job(10**17), 404, "no-such-job", f"there is no job {10**17}"),
        (lambda client: client.output_size(10**17), 404, "no-such-job", f"there is no job {10**17}"),
        (
            lambda client: client.pause("a b?c"),
            404,
            "no-such-queue",
            "there is no queue 'a b?c': see GET /api/queues",
        ),
        (
            lambda client: client.jobs_page(limit=0),
            400,
            "bad-parameter",
            "limit must be a whole number from 1 to 1000",
        ),
        (
            lambda client: client.submit("true", timeout=-1, priority=5000),
            422,
            "invalid-job",
            "#/timeout: must be greater than 0.0; #/priority: must be at most 1000",
        ),
    ],
)
async def test_a_refusal_is_one_error_with_the_problem(
    shared: Service, ask: Any, status: int, kind: str, detail: str
) -> None:
    """The error has the status, the kind, the problem document, and a message with every fault."""
    async with Client(shared.url) as client:
        with pytest.raises(ClientError) as caught:
            await ask(client)
    assert (caught.value.status, caught.value.kind, caught.value.detail) == (status, kind, detail)
    assert caught.value.problem is not None
    assert caught.value.problem["status"] == status


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\n<br/>", "foreign", "answered 403 Forbidden without"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}", "foreign", "answered 404 Not Found without"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "foreign", "is not shellrunner's .missing: queues."),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n[{}]", "foreign", "is not shellrunner's .missing: queues."),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<br/>", "foreign", "is not shellrunner's: check the address"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "foreign", "is not shellrunner's: check the address"),
    ],
)  # fmt: skip
async def test_a_response_of_another_program_is_recognized(
    wire: TcpProxy, answer: bytes, kind: str, words: str
) -> None:
    """A response that is not shellrunner's is an error of kind `foreign`, and the request is not retried."""
    wire.instead = [answer]
    async with Client(wire.url) as client:
        with pytest.raises(ClientError, match=words) as caught:
            await client.queues()
    assert caught.value.kind == kind
    assert wire.asked == []


async def test_a_server_that_never_was_there_is_not_waited_for() -> None:
    """The error is raised at once, however long the client may retry."""
    async with Client("http://127.0.0.1:1", retry_for=3600) as client:
        with pytest.raises(ClientError, match=r"^cannot reach http://127\.0\.0\.1:1: Connection refused$") as caught:
            await client.queues()
    assert (caught.value.kind, caught.value.is_transient) == ("unreachable", True)


async def test_a_server_that_was_not_there_yet_is_waited_for_if_that_is_asked_for(tmp_path: Path) -> None:
    """With `retry_first_for` a server may start within that time; the error comes after it."""
    url = f"unix:{tmp_path}/socket"
    async with Client(url, retry_first_for=0.2) as client:
        with pytest.raises(ClientError, match=r"No such file or directory"):
            await client.queues()
    async with Client(url, retry_for=0.0, retry_first_for=WAIT_TIMEOUT) as client:
        asking = asyncio.create_task(client.queues())
        await asyncio.sleep(0.1)
        assert not asking.done()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n")
            writer.write(b'{"queues":[]}')
            writer.close()

        async with await asyncio.start_unix_server(answer, f"{tmp_path}/socket"):
            await asking


async def test_a_token_comes_with_every_request_and_with_no_other_server(wire: TcpProxy) -> None:
    """Redirects are not followed, so no other server gets the token."""
    wire.instead = [
        b'HTTP/1.1 303 See Other\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 10\r\n\r\n{"done":1}'
    ]
    async with Client(wire.url, token="secret") as client:
        assert dict(await client.status(1)) == {"done": 1}


async def test_a_unix_socket_is_an_address_like_any_other(tmp_path: Path) -> None:
    """Requests work over a Unix socket, with `localhost` as Host."""
    service = new_service(tmp_path / "state", SERVER__LISTEN=f"unix:{tmp_path}/s.sock")
    service.program = service.program[:-2]  # --port would go before it
    await service.start()
    try:
        async with Client(f"unix:{tmp_path}/s.sock") as client:
            assert (await client.run("echo here"))["stdout"] == "here\n"
        async with Client(f"unix:{tmp_path}/none.sock") as client:
            with pytest.raises(ClientError, match=r"^cannot reach unix:.*/none\.sock: No such file or directory$"):
                await client.queues()
    finally:
        await service.clear_away()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("http://a:8000", ServerAddress("http://a:8000")),
        ("https://a/", ServerAddress("https://a")),
        ("localhost:8000", ServerAddress("http://localhost:8000")),
        ("http://[::1]:8000/prefix/", ServerAddress("http://[::1]:8000/prefix")),
        ("unix:/run/s.sock", ServerAddress("http://localhost", "/run/s.sock")),
        ("unix:///run/s.sock", ServerAddress("http://localhost", "/run/s.sock")),
    ],
)
async def test_an_address_is_read_as_people_write_it(text: str, address: Any) -> None:
    """The default scheme is http, and a socket is given by its path."""
    assert ServerAddress.parse(text) == address


@pytest.mark.parametrize(
    "text",
    ["", "ftp://a", "http://", "foo:x", "unix:s.sock", "unix:", "http://a:99999", "http://[a"],
)
async def test_a_wrong_address_is_refused_before_anything_is_connected(text: str) -> None:
    """The message quotes the address and shows the valid forms."""
    with pytest.raises(ValueError, match=f"^invalid server address {re.escape(repr(text))}: expected .*unix:"):
        Client(text)


@pytest.mark.parametrize("text", ["http://u:secret@a", "http://a/?q", "http://a/#f"])
async def test_an_address_with_a_password_or_a_query_is_refused(text: str) -> None:
    """The message does not repeat the password."""
    with pytest.raises(ValueError, match="remove user, password, query and fragment") as caught:
        Client(text)
    assert "secret" not in str(caught.value)


async def test_what_can_be_asked_for_is_what_the_server_takes() -> None:
    """JobOptions has the same keys as the server's JobSpec."""
    assert {"command", "argv", *JobOptions.__annotations__} == set(JobSpec.model_fields)


@pytest.mark.heavy
@pytest.mark.real_exec  # coverage brings modules of its own
async def test_importing_it_brings_none_of_the_server() -> None:
    """The client loads nothing of the server, and aiohttp only once a client over it is made."""
    code = "import sys, shellrunner.client as c; print(*sys.modules); c.Client(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    before, after = (set(line.split()) for line in done.stdout.splitlines())
    assert not before & {"aiohttp", "asyncio", "http", "ssl"}
    assert "aiohttp" in after
    assert not after & {"pydantic", "aiosqlite", "sqlite3"}
    assert {name.split(".")[1] for name in after if name.startswith("shellrunner.")} == {
        "client", "errors", "peer_credentials", "ascii_text"
    }  # fmt: skip
