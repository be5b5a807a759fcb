"""Input that is sent while a command runs, and signals: by the keeper alone, through HTTP, over restarts."""

import asyncio
import contextlib
import hashlib
import io
import os
import signal
from base64 import b64encode
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shellrunner.errors import NotRunning
from shellrunner.keeper.protocol import CONTROLS_SINCE, PROTOCOL
from shellrunner.keeper.slot import SlotReader
from shellrunner.keeper.stdin_buffer import CAPACITY, StdinBuffer
from shellrunner.supervisor import Controls
from shellrunner.supervisor.keeper_connection import connect
from tests.support.keepers import ForkServer, Talk, ended, give, record_of, start
from tests.support.processes import lives
from tests.support.service import InProcess, Service
from tests.support.users import sees_keepers
from tests.support.waiting import until

LARGE_INPUT = os.urandom(1000) * 1000


def test_a_keeper_announces_that_it_accepts_input(keeping: tuple[Talk, SlotReader]) -> None:
    """The protocol is the one that has signals and input."""
    assert keeping[0].hello["protocol"] == PROTOCOL >= CONTROLS_SINCE


def test_what_is_sent_is_what_is_read(keeping: tuple[Talk, SlotReader]) -> None:
    """Pieces arrive in order, the end ends the command, and offsets count what was taken."""
    keeper, slot = keeping
    start(keeper, 1, "cat", stream=True)
    assert give(keeper, b"one ", offset=0) == (4, None)
    assert give(keeper, "два ".encode()) == (11, None)
    assert give(keeper) == (11, None)
    assert give(keeper, b"three", offset=11, end=True) == (16, None)
    assert keeper.receive()["say"] == "ended"
    assert ended(slot, 1)[1] == "one два three".encode()


def test_a_wrong_offset_takes_nothing(keeping: tuple[Talk, SlotReader]) -> None:
    """Only data at the current offset is accepted; otherwise the offset is returned."""
    keeper, slot = keeping
    start(keeper, 1, "cat", stream=True)
    assert give(keeper, b"x", offset=1) == (0, "offset")
    assert give(keeper, b"abc", offset=0) == (3, None)
    assert give(keeper, b"abc", offset=0, end=True) == (3, "offset")
    assert give(keeper, b"def", offset=3, end=True) == (6, None)
    assert keeper.receive()["say"] == "ended"
    assert ended(slot, 1)[1] == b"abcdef"


def test_after_its_end_input_is_closed(keeping: tuple[Talk, SlotReader]) -> None:
    """Nothing follows the end, and the end comes once; a repeat with its old offset learns that it was taken."""
    keeper, _ = keeping
    start(keeper, 1, "sleep 600", stream=True)
    assert give(keeper, b"last", offset=0, end=True) == (4, None)
    assert give(keeper, b"more") == (4, "closed")
    assert give(keeper, end=True) == (4, "closed")
    assert give(keeper, b"last", offset=0, end=True) == (4, "offset")
    keeper.send(do="cancel", job=1, token="t")
    assert keeper.receive()["say"] == "ended"


@pytest.mark.parametrize("job", [{}, {"stdin": "text"}, {"tty": [24, 80]}])
def test_a_job_that_is_not_made_for_input_takes_none(keeping: tuple[Talk, SlotReader], job: dict[str, Any]) -> None:
    """Without `stream`, input is closed from the start, whatever the offset."""
    keeper, _ = keeping
    start(keeper, 1, "sleep 600", **job)
    assert give(keeper, b"x") == (0, "closed")
    assert give(keeper, b"x", offset=7) == (0, "closed")
    keeper.send(do="cancel", job=1, token="t")
    assert keeper.receive()["say"] == "ended"


def test_input_for_another_job_is_gone(keeping: tuple[Talk, SlotReader]) -> None:
    """A keeper refuses input for a job that it does not run, also when it runs none."""
    keeper, _ = keeping
    assert give(keeper, b"x") == (None, "gone")
    start(keeper, 1, "sleep 600", stream=True)
    assert give(keeper, b"x", job=2) == (None, "gone")
    keeper.send(do="cancel", job=1, token="t")
    assert keeper.receive()["say"] == "ended"


async def test_a_slow_reader_fills_the_buffer_and_frees_it_again(
    keeping: tuple[Talk, SlotReader], tmp_path: Path
) -> None:
    """What the command does not read waits up to a bound; beyond it nothing is taken, until it has read."""
    keeper, slot = keeping
    start(keeper, 1, f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; md5sum", stream=True)
    assert give(keeper, LARGE_INPUT) == (len(LARGE_INPUT), None)
    assert give(keeper, LARGE_INPUT) == (len(LARGE_INPUT), "full")
    (tmp_path / "go").touch()
    await until(lambda: give(keeper, LARGE_INPUT, offset=len(LARGE_INPUT), end=True) == (2 * len(LARGE_INPUT), None))
    assert keeper.receive()["say"] == "ended"
    assert ended(slot, 1)[1].decode().split() == [hashlib.md5(LARGE_INPUT * 2).hexdigest(), "-"]


def test_input_after_the_command_closed_it_is_discarded(keeping: tuple[Talk, SlotReader]) -> None:
    """A command that has closed its input runs on; what is sent to it counts as taken, and is discarded."""
    keeper, slot = keeping
    start(keeper, 1, "exec <&-; trap 'exit 4' USR1; while :; do sleep 0.02; done", stream=True)
    for _ in range(5):
        offset, refused = give(keeper, LARGE_INPUT)
        assert refused in (None, "full")
    assert give(keeper, b"", end=True)[1] is None
    assert give(keeper, b"")[1] == "closed"
    keeper.send(do="signal", job=1, token="t", signum=signal.SIGUSR1)
    assert keeper.receive()["say"] == "ended"
    assert ended(slot, 1)[0]["exit_code"] == 4
    assert offset is not None
    assert offset >= len(LARGE_INPUT)


async def test_the_servers_death_does_not_end_the_input(
    fork_server: ForkServer, keeping: tuple[Talk, SlotReader]
) -> None:
    """The pipe stays open without a server, and the next server continues at the same offset."""
    keeper, slot = keeping
    start(keeper, 1, "cat; exit 5", stream=True)
    assert give(keeper, b"before ") == (7, None)
    keeper.connection.close()
    again = fork_server.reconnect(1)
    assert (again.hello["job"], again.hello["token"]) == (1, "t")
    assert give(again, b"after", offset=7, end=True) == (12, None)
    assert again.receive()["say"] == "ended"
    end, data = ended(slot, 1)
    assert (end["exit_code"], data) == (5, b"before after")


async def test_s5_a_server_that_reads_no_answers_stops_nothing(keeping: tuple[Talk, SlotReader]) -> None:
    """A stopped server leaves answers unread until the socket is full: the timeout still comes in time,
    and a later reader gets every answer."""
    keeper, slot = keeping
    start(keeper, 1, "exec sleep 600", stream=True, timeout=1)
    keeper.connection.settimeout(0.2)
    asked = 0
    with contextlib.suppress(TimeoutError):
        while asked < 5000:  # far more than a socket holds
            keeper.send(do="input", job=1, token="t", offset=7, data="", end=False)
            asked += 1
    end = await until(lambda: record_of(slot, 1).end, what="it ends")
    assert (end["ending"], end["duration"] < 3) == ("timed_out", True)
    keeper.connection.settimeout(20)
    for _ in range(asked):
        while (message := keeper.receive())["say"] == "ended":
            pass
        assert (message["say"], message["job"], message["refused"] in ("offset", "gone")) == ("took", 1, True)


async def test_input_for_a_stopped_keeper_waits_with_who_sends_it(
    fork_server: ForkServer, keeping: tuple[Talk, SlotReader]
) -> None:
    """Input for a stopped keeper waits in its request, without a queue: a cancelled request withdraws it."""
    keeper, _ = keeping
    start(keeper, 1, "exec cat > /dev/null", stream=True, timeout=20)
    slots = os.open(fork_server.state / "slots", os.O_RDONLY)
    link = await connect(slots, 1)
    os.close(slots)
    keeper_pid = (await link.hello)["identity"]["pid"]
    os.kill(keeper_pid, signal.SIGSTOP)
    data = b64encode(LARGE_INPUT[:100_000]).decode()
    message = {"do": "input", "job": 1, "token": "t", "offset": None, "data": data, "end": False}
    giving = [asyncio.create_task(link.request(message)) for _ in range(100)]
    await asyncio.sleep(0)  # each has sent what it has, or waits for its turn
    for task in giving:
        task.cancel()
    await asyncio.wait(giving)
    os.kill(keeper_pid, signal.SIGCONT)
    taken = await link.request({**message, "data": "", "end": True})
    assert (taken["refused"], taken["offset"] <= 1_000_000) == (None, True)
    assert not (await link.wait_ended(1, "t"))["retiring"]
    link.close()


@sees_keepers
def test_input_leaves_no_descriptor_behind(keeping: tuple[Talk, SlotReader]) -> None:
    """However a command with input ended or failed to start, the keeper has the descriptors it began with."""
    keeper, _ = keeping
    pid = keeper.hello["identity"]["pid"]
    before = sorted(os.listdir(f"/proc/{pid}/fd"))
    kinds: list[dict[str, Any]] = [
        {"command": "head -c 3"},
        {"command": "true"},
        {"command": "exec <&-; sleep 0.02"},
        {"command": "true", "cwd": "/no/such"},
        {"command": "sleep 9", "timeout": 0.02},
    ]
    for job, kind in enumerate(kinds * 3, 1):
        start(keeper, job, stream=True, **kind)
        keeper.send(do="input", job=job, token="t", offset=None, data="eHl6", end=job % 2 == 0)
        assert {keeper.receive()["say"], keeper.receive()["say"]} == {"took", "ended"}
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == before


_steps = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(0, CAPACITY), st.sampled_from([0, 0, 1, -1])),
        st.tuples(st.just("read"), st.integers(1, 300_000), st.just(0)),
        st.tuples(st.just("end"), st.integers(0, 9), st.just(0)),
    ),
    max_size=20,
)


@pytest.mark.heavy
@settings(max_examples=60, deadline=None)
@given(steps=_steps)
def test_a_reader_gets_what_was_taken_whatever_the_order(steps: Any) -> None:
    """Whatever is sent, refused and read in whatever order: what comes out is what was taken, and then the end."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    os.set_blocking(reading, False)
    source, taken, read, over = StdinBuffer(writing, is_open=True), b"", b"", False
    for kind, size, shift in steps:
        if kind == "read":
            try:
                read += os.read(reading, size)
            except BlockingIOError:
                assert not source.has_pending
        else:
            data = bytes([65 + len(taken) % 26]) * size
            refused = source.accept(len(taken) + shift, data, end=kind == "end")
            if shift or over:
                assert refused == ("offset" if shift else "closed")
            else:
                full = len(taken) - len(read) + size > CAPACITY + 65_536
                assert refused in ([None, "full"] if not full else ["full"])
            if refused is None:
                taken, over = taken + data, kind == "end"
            assert source.offset == len(taken)
        source.write()
    while len(read) < len(taken):
        read += os.read(reading, 1 << 20)
        source.write()
    assert read == taken
    assert (source.sink < 0) == over
    source.close()
    os.close(reading)


# Signals ------------------------------------------------------------------------------------------------------------


def test_a_signal_reaches_the_group_and_only_the_job_that_is_meant(keeping: tuple[Talk, SlotReader]) -> None:
    """The command and its children get the signal; one for another job or token is ignored."""
    keeper, slot = keeping
    trap = "trap 'echo got; exit 3' HUP; echo up; while :; do sleep 0.01; done"
    start(keeper, 1, f"trap 'wait; exit 4' HUP; sh -c \"{trap}\" 2>&- & wait", stream=True)
    while not slot.find(1, "t") or not record_of(slot, 1).progress.get("stdout"):
        assert give(keeper) == (0, None)
    for wrong in ({"job": 2, "token": "t"}, {"job": 1, "token": "x"}):
        keeper.send(do="signal", signum=signal.SIGKILL, **wrong)
    keeper.send(do="signal", job=1, token="t", signum=9999)
    assert give(keeper) == (0, None)
    keeper.send(do="signal", job=1, token="t", signum=signal.SIGHUP)
    assert keeper.receive()["say"] == "ended"
    end, data = ended(slot, 1)
    assert (end["exit_code"], data) == (4, b"up\ngot\n")
    keeper.send(do="signal", job=1, token="t", signum=signal.SIGKILL)
    start(keeper, 2, "exit 6")
    assert keeper.receive()["job"] == 2
    assert ended(slot, 2)[0]["exit_code"] == 6


class Old:
    """A claim under a keeper that speaks an earlier protocol, as the supervisor has it."""

    def __init__(self, protocol: int) -> None:
        self.connection = self
        self.hello: asyncio.Future[Any] = asyncio.Future()
        self.closed: asyncio.Future[Any] = asyncio.Future()
        self.hello.set_result({"protocol": protocol})


@pytest.mark.parametrize(
    ("protocol", "ask"),
    [
        (1, lambda controls: controls.send_signal(5, 1)),
        (1, lambda controls: controls.send_input(5, None, b"x", end=False)),
        (3, lambda controls: controls.send_signal(5, 1, to_tree=True)),
    ],
)
async def test_a_keeper_of_an_earlier_protocol_is_not_asked(protocol: int, ask: Any) -> None:
    """A keeper of an older version is understood; what it does not support is refused with the reason."""
    old = Old(protocol)
    with pytest.raises(NotRunning, match="older version") as refused:
        await ask(Controls(cast("Any", None), cast("Any", lambda _: old)))
    assert (refused.value.code, refused.value.members) == ("not-running", {})


# Through HTTP -------------------------------------------------------------------------------------------------------


async def send(service: Service, job: Any, data: bytes = b"", query: str = "") -> tuple[Any, ...]:
    """POST to the job's stdin; return (status, body)."""
    status, _, body = await service.ask("POST", f"/api/jobs/{job}/stdin{query}", data=io.BytesIO(data))
    return status, body


async def listener(service: Service, command: Any) -> Any:
    """Submit a job that takes input, and wait until it runs."""
    job = await service.submit(command, stdin={"stream": True})
    await service.running(job)
    return job


async def hit(service: Service, job: Any, name: Any) -> tuple[Any, ...]:
    """POST a signal; return (status, body)."""
    status, _, body = await service.ask("POST", f"/api/jobs/{job}/signal", json={"signal": name})
    return status, body


@pytest.mark.heavy
async def test_input_over_http(service: Service) -> None:
    """Sent in pieces, with and without an offset, any type of body; then the end."""
    job = await listener(service, "cat; echo; exit 3")
    assert await send(service, job, b"\x00\xff\n") == (204, b"")
    assert (await send(service, job, "привет".encode(), "?offset=3"))[0] == 204
    status, body = await send(service, job, b"again", "?offset=3")
    assert (status, body["type"], body["offset"]) == (409, "/problems/wrong-offset", 15)
    assert (await send(service, job, b"", "?end=true&offset=15"))[0] == 204
    result = await service.result(job)
    assert result["exit_code"] == 3
    assert await service.raw(job) == b"\x00\xff\n" + "привет\n".encode()
    status, body = await send(service, job, b"late")
    assert (status, body["type"]) == (409, "/problems/not-running")


@pytest.mark.heavy
async def test_input_goes_on_over_kill_9_and_restart(service: Service) -> None:
    """Killing the server loses no input; after the restart the same offsets are valid."""
    job = await listener(service, "md5sum")
    half = len(LARGE_INPUT) // 2
    assert (await send(service, job, LARGE_INPUT[:half], "?offset=0"))[0] == 204
    await service.restart()
    status, body = await send(service, job, LARGE_INPUT[:half], "?offset=0")
    assert (status, body["offset"]) == (409, half)
    assert (await send(service, job, LARGE_INPUT[half:], f"?offset={half}"))[0] == 204
    await service.restart()
    assert (await send(service, job, b"", f"?offset={len(LARGE_INPUT)}&end"))[0] == 204
    assert (await service.result(job))["stdout"].split()[0] == hashlib.md5(LARGE_INPUT).hexdigest()


@pytest.mark.heavy
async def test_a_full_input_is_503_and_nothing_of_it_is_taken(service: Service, tmp_path: Path) -> None:
    """A full input is 503 with Retry-After, and what was taken arrives once."""
    job = await listener(service, f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; md5sum")
    assert (await send(service, job, LARGE_INPUT))[0] == 204
    status, headers, body = await service.ask(
        "POST", f"/api/jobs/{job}/stdin?offset={len(LARGE_INPUT)}", data=LARGE_INPUT[:]
    )
    assert (status, body["type"], body["offset"]) == (503, "/problems/input-full", len(LARGE_INPUT))
    assert headers["Retry-After"] == "1"
    (tmp_path / "go").touch()

    async def taken() -> bool:
        return bool((await send(service, job, LARGE_INPUT, f"?offset={len(LARGE_INPUT)}&end=true"))[0] == 204)

    await until(taken)
    assert (await service.result(job))["stdout"].split()[0] == hashlib.md5(LARGE_INPUT * 2).hexdigest()


BAD_INPUT = [
    ("?offset=-1", b"", 400, "bad-parameter"),
    ("?offset=x", b"", 400, "bad-parameter"),
    ("?end=maybe", b"", 400, "bad-parameter"),
    ("?more=1", b"", 400, "bad-parameter"),
    ("", b"x" * ((1 << 20) + 1), 413, "too-large"),
]


@pytest.mark.heavy
async def test_bad_input_is_refused_and_takes_nothing(service: Service) -> None:
    """Invalid input is a problem that names the fault, and the offset stays the same."""
    job = await listener(service, "cat")
    for query, data, status, kind in BAD_INPUT:
        got, body = await send(service, job, data, query)
        assert (got, body["type"]) == (status, f"/problems/{kind}"), query
        got, body = await send(service, job, b"", "?offset=9")
        assert body["offset"] == 0


async def test_a_body_that_does_not_arrive_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body shorter than announced is 408, and nothing of it was taken."""
    monkeypatch.setattr("shellrunner.web.http.bodies.BODY_TIMEOUT", 0.05)
    async with InProcess(tmp_path / "state") as service:
        job = await listener(service, "cat")
        host, port = service.url.removeprefix("http://").split(":")
        reading, writing = await asyncio.open_connection(host, port)
        head = f"POST /api/jobs/{job}/stdin HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 5\r\n\r\nabc"
        writing.write(head.encode())
        assert (await reading.readline()).startswith(b"HTTP/1.1 408 ")
        writing.close()
        assert (await send(service, job, b"", "?offset=0&end=true"))[0] == 204


async def test_a_compressed_body_is_refused(service: Service) -> None:
    """A body with Content-Encoding is 415: the command would get the compressed bytes."""
    job = await listener(service, "cat")
    path, headers = f"/api/jobs/{job}/stdin", {"Content-Encoding": "gzip"}
    status, _, body = await service.ask("POST", path, data=b"x", headers=headers)
    assert (status, body["type"]) == (415, "/problems/unsupported-media-type")


@pytest.mark.heavy
async def test_a_job_without_streamed_input_refuses_it(service: Service) -> None:
    """Unknown, queued, done, and submitted without a stream: 404, 409, 409, 409, each with its reason."""
    await service.stop()
    await service.start(SUPERVISOR__MAX_RUNNING=1)
    running = await service.submit("sleep 600")
    await service.running(running)
    queued = await service.submit("cat", stdin={"stream": True})
    for job, status, kind in (
        (999, 404, "no-such-job"),
        (queued, 409, "not-running"),
        (running, 409, "input-closed"),
    ):
        got, body = await send(service, job, b"x")
        assert (got, body["type"]) == (status, f"/problems/{kind}")
    for job, status, kind in ((999, 404, "no-such-job"), (queued, 409, "not-running")):
        got, body = await hit(service, job, "SIGHUP")
        assert (got, body["type"]) == (status, f"/problems/{kind}")


async def test_a_signal_over_http(service: Service) -> None:
    """A signal is 202 with the status and its path, and the command's trap runs."""
    job = await service.submit("trap 'echo caught; exit 9' HUP; echo up; while :; do sleep 0.01; done")
    await until(lambda: has_written(service, job))
    status, headers, body = await service.ask("POST", f"/api/jobs/{job}/signal", json={"signal": "SIGHUP"})
    assert (status, headers["Location"], body["job_id"]) == (202, f"/api/statuses/{job}", job)
    result = await service.result(job)
    assert (result["exit_code"], result["stdout"]) == (9, "up\ncaught\n")
    assert (await hit(service, job, "SIGHUP"))[0] == 409


async def has_written(service: Service, job: Any) -> Any:
    """Whether the job has written anything."""
    return (await service.get(f"/api/statuses/{job}/output"))[2]


async def test_stop_and_continue(service: Service) -> None:
    """SIGSTOP stops the whole group, SIGCONT lets it go on; neither is an end."""
    job = await service.submit("i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done")
    await until(lambda: has_written(service, job))
    assert (await hit(service, job, "SIGSTOP"))[0] == 202

    async def stands_still() -> bool:
        before = await has_written(service, job)
        await asyncio.sleep(0.1)
        return bool(await has_written(service, job) == before)

    await until(stands_still)
    before = await has_written(service, job)
    assert (await hit(service, job, "SIGCONT"))[0] == 202

    async def goes_on() -> bool:
        return len(await has_written(service, job)) > len(before)

    await until(goes_on)
    assert (await hit(service, job, "SIGKILL"))[0] == 202
    result = await service.result(job)
    assert (result["ending"], result["signal"]) == ("signalled", "SIGKILL")


@pytest.mark.heavy
async def test_a_signal_to_the_tree_over_http(service: Service) -> None:
    """`"to": "tree"` reaches a process that made a session of its own; `group`, the default, does not."""
    loop = "trap 'echo $SAY' HUP; echo up; while :; do sleep 0.02; done"
    both = 'SAY=in sh -c "$LOOP" & SAY=out setsid sh -c "$LOOP" & trap : HUP; while :; do wait; done'
    job = await service.submit(both, env={"LOOP": loop})
    path, expected = f"/api/jobs/{job}/signal", ["up", "up"]

    async def is_written() -> bool:
        _, _, output = await service.get(f"/api/statuses/{job}/output?stream=stdout")
        return sorted(output.decode().split()) == sorted(expected)

    await until(is_written)
    orders: list[tuple[dict[str, str], list[str]]] = [
        ({}, ["in"]), ({"to": "group"}, ["in"]), ({"to": "tree"}, ["in", "out"]),
    ]  # fmt: skip
    for more, answers in orders:
        status, _, body = await service.ask("POST", path, json={"signal": "SIGHUP", **more})
        assert (status, body["state"]) == (202, "running")
        expected += answers
        await until(is_written)
    for bad in ("everybody", 1):
        status, _, body = await service.ask("POST", path, json={"signal": "SIGHUP", "to": bad})
        assert (status, [error["pointer"] for error in body["errors"]]) == (422, ["#/to"])
    await service.ask("POST", f"/api/jobs/{job}/cancel")
    assert (await service.result(job))["ending"] == "cancelled"


@pytest.mark.heavy
async def test_a_status_has_the_pid_while_the_command_runs(service: Service) -> None:
    """Alone and in the list: the pid of the command, also after a restart; null when it has ended."""
    job = await service.submit("echo $$; exec sleep 600")
    pid = int(await until(lambda: has_written(service, job)))

    async def shown() -> Any:
        return (await service.status(job))["pid"]

    assert await until(shown) == pid  # it is shown once the command has run for some milliseconds
    _, _, page = await service.get("/api/statuses?fields=pid")
    assert page["statuses"] == [{"pid": pid}]
    await service.restart()

    async def found() -> Any:
        status = await service.status(job)
        assert status["state"] == "running"
        return status["pid"]

    assert await until(found) == pid
    _, _, cancelled = await service.ask("POST", f"/api/jobs/{job}/cancel")
    assert cancelled["pid"] in (pid, None)  # it may have ended by then
    await service.result(job)
    assert (await service.status(job))["pid"] is None


@pytest.mark.heavy
async def test_a_command_that_has_ended_has_no_pid(service: Service) -> None:
    """While what a command left behind is ended, the job runs without a pid: the number may be another's by then."""
    job = await service.submit("trap '' TERM; sleep 600 & echo $$")
    pid = int(await until(lambda: has_written(service, job)))

    async def without_pid() -> bool:
        status = await service.status(job)
        assert status["state"] == "running"
        return status["pid"] is None

    await until(lambda: not lives(pid))  # its output may be there before its pid is
    await until(without_pid)
    assert (await service.result(job))["leftovers_count"] == 1


async def test_real_time_signals_have_names(service: Service) -> None:
    """SIGRTMIN+n is accepted as a name, and reported as one."""
    job = await service.submit("sleep 600")
    await service.running(job)
    assert (await hit(service, job, "SIGRTMIN+3"))[0] == 202
    assert (await service.result(job))["signal"] == "SIGRTMIN+3"


BAD_SIGNALS = [
    ({"signal": "HUP"}, "#/signal"),
    ({"signal": "SIGNONE"}, "#/signal"),
    ({"signal": "SIGRTMIN+99"}, "#/signal"),
    ({"signal": 1}, "#/signal"),
    ({"signal": None}, "#/signal"),
    ({}, "#/signal"),
    ({"signal": "SIGHUP", "pid": 1}, "#/pid"),
    ([], "#"),
]


async def test_a_bad_signal_is_422_with_its_place(service: Service) -> None:
    """Any name but the kernel's is 422 with a pointer, and no signal is sent."""
    job = await service.submit("sleep 600")
    await service.running(job)
    for body, pointer in BAD_SIGNALS:
        status, _, answer = await service.ask("POST", f"/api/jobs/{job}/signal", json=body)
        assert (status, answer["type"]) == (422, "/problems/invalid-signal"), body
        assert [fault["pointer"] for fault in answer["errors"]] == [pointer]
    assert (await service.status(job))["state"] == "running"


async def test_a_signal_is_json(service: Service) -> None:
    """Another media type is 415, malformed JSON is 400."""
    job = await service.submit("sleep 600")
    path = f"/api/jobs/{job}/signal"
    assert (await service.ask("POST", path, data=b'{"signal": "SIGHUP"}'))[0] == 415
    headers = {"Content-Type": "application/json"}
    assert (await service.ask("POST", path, data=b'{"signal": ', headers=headers))[0] == 400


@pytest.mark.heavy
async def test_p7_p8_a_thousand_signals_race_with_ends(service: Service) -> None:
    """Signals sent just as the command ends reach it or no process: the service and an outsider live."""
    outsider = await asyncio.create_subprocess_exec("sleep", "600")
    keepers = set()

    async def one(number: Any) -> tuple[Any, ...]:
        job = await service.submit(f"sleep 0.00{number % 10}")
        answers = {(await hit(service, job, name))[0] for name in ("SIGTERM", "SIGKILL")}
        return job, answers

    for _ in range(10):
        done = await asyncio.gather(*(one(number) for number in range(50)))
        assert {status for _, answers in done for status in answers} <= {202, 409}
        for job, _ in done:
            result = await service.result(job)
            assert (result["ending"], result["signal"]) in {
                ("exited", None), ("signalled", "SIGTERM"), ("signalled", "SIGKILL")
            }  # fmt: skip
        keepers |= {keeper.pid for keeper in service.keepers()}
    assert service.process.returncode is None
    assert lives(outsider.pid)
    assert (await service.run("echo still"))["stdout"] == "still\n"
    outsider.kill()
    await outsider.wait()


@pytest.mark.heavy
async def test_input_to_a_job_whose_keeper_dies_is_refused(service: Service) -> None:
    """Input whose keeper is killed before it answers is 409 and does not hang; the job is lost."""
    job = await service.submit("cat", stdin={"stream": True})
    keeper = await service.running(job)
    service.signal(keeper, signal.SIGSTOP)
    waiting = asyncio.create_task(send(service, job, b"x"))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    service.signal(keeper, signal.SIGKILL)
    status, body = await waiting
    assert (status, body["type"]) == (409, "/problems/not-running")
    assert (await service.result(job))["ending"] == "lost"
