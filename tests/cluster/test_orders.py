"""Commands of one host are controlled through another one, as if they ran there, whatever is killed meanwhile."""

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support import postgres
from tests.support.cluster_service import ClusterService
from tests.support.postgres import PostgresServer
from tests.support.processes import lives
from tests.support.service import Answer, Service
from tests.support.sse import parse
from tests.support.users import sees_keepers
from tests.support.waiting import until

pytestmark = sees_keepers

TRANSIENT = {"/problems/keeper-silent", "/problems/store-unavailable", "/problems/outcome-unknown"}


class Hosts:
    """Two nodes that only answer, and a host that runs the jobs."""

    def __init__(self, a: ClusterService, b: Service) -> None:
        self.nodes: dict[str, Service] = {"a": a, "b": b}
        self.worker, self.execute, self.database = a.worker, a.execute, a.server


@asynccontextmanager
async def running(path: Path, server: PostgresServer | None = None) -> AsyncIterator[Hosts]:
    """Run them on a database of `server`, or of the server of this test process."""
    a = ClusterService(path / "worker", server=server, JOBS__KILL_GRACE=0.1)
    b = Service(path / "b")
    b.program.append("--no-worker")
    try:
        await asyncio.gather(a.start(), b.start(**a.settings | {"WORKER__NAME": "b"}))
        await a.acquainted(3)
        yield Hosts(a, b)
    finally:
        await b.clear_away()
        await a.clear_away()
        for line in (a.log + b.log)[-60:]:
            print(line)  # pytest shows it where the test failed


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    """Yield them, running."""
    async with running(tmp_path) as made:
        yield made


def api(hosts: Hosts, name: str = "a") -> Service:
    """Return an API node."""
    return hosts.nodes[name]


async def reader(hosts: Hosts, path: Path) -> int:
    """Run a command that writes its input to a file; return its job once it runs."""
    job = await api(hosts).submit(f"exec cat > {path}", stdin={"stream": True})
    await hosts.worker.running(job)
    return job


async def type_into(node: Service, job: int, data: bytes, offset: int | None, *, end: bool = False) -> Answer:
    """Send input to a job."""
    query = "?" + ("" if offset is None else f"offset={offset}&") + f"end={str(end).lower()}"
    return await node.ask("POST", f"/api/jobs/{job}/stdin{query}", data=data)


async def type_surely(node: Service, job: int, data: bytes, offset: int, *, end: bool = False) -> int:
    """Send input until it is known to be taken, as a client does; return how often it was not known."""
    unknown = 0
    while True:
        try:
            status, _, body = await type_into(node, job, data, offset, end=end)
        except OSError:
            status, body = 0, {"type": "/problems/store-unavailable"}
        if status == 204:
            return unknown
        if body["type"] == "/problems/wrong-offset" and body["offset"] == offset + len(data):
            assert unknown
            return unknown
        assert body["type"] in TRANSIENT, body
        unknown += 1
        await asyncio.sleep(0.02)


@pytest.mark.heavy
async def test_each_control_from_another_node(hosts: Hosts, tmp_path: Path) -> None:
    """Pause, resume, size, signal, usage and input do what they do on one host, and say the same."""
    node = api(hosts)
    job = await node.submit(
        f"trap 'stty size > {tmp_path}/size' WINCH; echo up > {tmp_path}/up; while :; do sleep 0.01; done",
        tty={"rows": 20, "columns": 70},
    )
    await until((tmp_path / "up").exists)
    pid = (await until(lambda: _with_pid(node, job), what="the pid is known"))["pid"]
    assert os.readlink(f"/proc/{pid}/cwd")
    status, _, body = await node.ask("POST", f"/api/jobs/{job}/pause")
    assert (status, body["paused"], body["tty"]) == (202, True, {"rows": 20, "columns": 70})
    assert (await api(hosts, "b").ask("GET", f"/api/statuses/{job}/usage"))[2]["stopped"] >= 1
    await until(lambda: _is_paused(api(hosts, "b"), job), what="the other node knows that it is paused")
    status, _, body = await api(hosts, "b").ask("POST", f"/api/jobs/{job}/resume")
    assert (status, body["paused"]) == (202, False)
    status, _, body = await node.ask("POST", f"/api/jobs/{job}/tty", json={"rows": 5, "columns": 9})
    assert (status, body["tty"]) == (202, {"rows": 5, "columns": 9})
    await until(lambda: (tmp_path / "size").exists() and (tmp_path / "size").read_text() == "5 9\n")
    _, _, usages = await node.ask("GET", "/api/statuses/usage")
    assert [each["job_id"] for each in usages["usages"]] == [job]
    assert usages["processors"] == len(os.sched_getaffinity(0))
    status, _, _ = await node.ask("POST", f"/api/jobs/{job}/signal", json={"signal": "SIGKILL", "to": "tree"})
    assert status == 202
    assert (await node.result(job))["signal"] == "SIGKILL"
    for action in ("pause", "resume"):
        assert (await node.ask("POST", f"/api/jobs/{job}/{action}"))[0] == 409


async def _with_pid(node: Service, job: int) -> Any:
    status = await node.status(job)
    return status if status["pid"] else None


async def _is_paused(node: Service, job: int) -> Any:
    return (await node.status(job))["paused"]


@pytest.mark.heavy
async def test_refusals_are_those_of_the_host(hosts: Hosts, tmp_path: Path) -> None:
    """Wrong offsets, full and closed input, no terminal: the same problems, with their members."""
    node, job = api(hosts), await reader(hosts, tmp_path / "typed")
    status, _, body = await type_into(node, job, b"x", 3)
    assert (status, body["type"], body["offset"]) == (409, "/problems/wrong-offset", 0)
    status, _, body = await node.ask("POST", f"/api/jobs/{job}/tty", json={"rows": 1, "columns": 1})
    assert (status, body["type"]) == (409, "/problems/no-terminal")
    assert (await node.ask("POST", f"/api/jobs/{job}/pause"))[0] == 202
    taken = 0
    while (answer := await type_into(node, job, bytes(1 << 18), taken))[0] == 204:
        taken += 1 << 18
    assert (answer[2]["type"], answer[2]["offset"]) == ("/problems/input-full", taken)
    assert (await node.ask("POST", f"/api/jobs/{job}/resume"))[0] == 202
    await type_surely_when_full(node, job, taken)
    closed = (await type_into(node, job, b"more", None))[2]["type"]
    assert closed in {"/problems/input-closed", "/problems/not-running"}  # it may have ended already
    assert (await node.result(job))["exit_code"] == 0
    assert (tmp_path / "typed").stat().st_size == taken


async def type_surely_when_full(node: Service, job: int, offset: int) -> None:
    """End the input once there is room for that."""

    async def ended() -> bool:
        status, _, body = await type_into(node, job, b"", offset, end=True)
        assert status == 204 or body["type"] == "/problems/input-full"
        return status == 204

    await until(ended, what="the input is ended")


@pytest.mark.heavy
async def test_the_writer_is_one_over_all_nodes(hosts: Hosts, tmp_path: Path) -> None:
    """Another client is refused at every node while the writer follows the job, unless it takes the place."""
    job, path = await reader(hosts, tmp_path / "typed"), "/api/jobs/{}/stdin?writer={}&take={}"

    async def type_as(node: str, name: str, *, take: bool = False) -> int:
        query = path.format(job, name, str(take).lower())
        return (await api(hosts, node).ask("POST", query, data=name.encode()))[0]

    async with AsyncExitStack() as following:
        for node, name in (("a", "first"), ("b", "second")):
            url = f"{api(hosts, node).url}/api/statuses/{job}/events?writer={name}"
            stream = await following.enter_async_context(api(hosts, node).session.get(url))
            await anext(aiter(parse(stream.content)))
        assert [await type_as("a", "first"), await type_as("b", "second")] == [204, 409]
        assert await type_as("b", "second", take=True) == 204
        await until(partial(_is_refused, type_as, "a", "first"), what="the first one is refused")

    async def is_free() -> bool:
        return await type_as("a", "third") == 204

    await until(is_free, what="the writer has left")


async def _is_refused(type_as: Callable[[str, str], Awaitable[int]], node: str, name: str) -> bool:
    return await type_as(node, name) == 409


@pytest.mark.heavy
async def test_keystrokes_keep_their_order(hosts: Hosts, tmp_path: Path) -> None:
    """One after the other, without offsets, through both nodes in turn."""
    job = await reader(hosts, tmp_path / "typed")
    typed = bytes(random.Random(1).choices(range(97, 123), k=200))
    for number, each in enumerate(typed):
        status, _, body = await type_into(api(hosts, "ab"[number % 2]), job, bytes([each]), None)
        assert status == 204, body
    assert (await type_into(api(hosts), job, b"", 200, end=True))[0] == 204
    await api(hosts).result(job)
    assert (tmp_path / "typed").read_bytes() == typed


@pytest.mark.heavy
async def test_a_job_that_ends_while_an_order_is_on_its_way(hosts: Hosts) -> None:
    """The order is carried out or refused, and nothing is left over for anybody."""
    node, statuses = api(hosts), Counter[int]()
    for _ in range(20):
        job = await node.submit("read line", stdin={"stream": True})
        await hosts.worker.running(job)
        ended, *answers = await asyncio.gather(
            type_into(api(hosts, "b"), job, b"\n", 0),
            *(node.ask("POST", f"/api/jobs/{job}/{action}") for action in ("pause", "resume", "pause", "resume")),
        )
        assert ended[0] == 204
        statuses.update(status for status, _, _ in answers)
        await node.ask("POST", f"/api/jobs/{job}/resume")  # the last one to come may have been a pause
        assert (await node.result(job))["exit_code"] == 0
    assert statuses.keys() <= {202, 409}, statuses
    assert hosts.execute("SELECT count(*) FROM orders") == [(0,)]


@pytest.mark.heavy
async def test_a_server_that_is_killed_while_it_carries_out_an_order(hosts: Hosts, tmp_path: Path) -> None:
    """The order is answered as in doubt, never done twice; what is typed arrives once."""
    node, host = api(hosts), hosts.worker
    job = await reader(hosts, tmp_path / "typed")
    keeper = await host.running(job)
    for number in range(3):
        Service.signal(keeper, signal.SIGSTOP)  # so that the order is taken and not answered
        typing = asyncio.create_task(type_surely(node, job, b"once ", 5 * number))
        pausing = asyncio.create_task(node.ask("POST", f"/api/jobs/{job}/resume"))
        await until(lambda: _count(hosts, "taken_by IS NOT NULL") >= 1, what="an order is taken")
        await host.kill()
        Service.signal(keeper, signal.SIGCONT)
        await host.start()
        assert await typing >= 1
        status, _, body = await pausing
        assert status == 202 or body["type"] == "/problems/keeper-silent"
    assert await type_surely(node, job, b"", 15, end=True) == 0
    assert (await node.result(job))["exit_code"] == 0
    assert (tmp_path / "typed").read_bytes() == b"once " * 3


def _count(hosts: Hosts, condition: str) -> int:
    return int(hosts.execute(f"SELECT count(*) FROM orders WHERE {condition}")[0][0])


async def _restart_database(hosts: Hosts, mode: str) -> None:
    hosts.database.stop(mode)
    hosts.database.launch()


@pytest.mark.heavy
@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restart_of_the_database_while_somebody_types(tmp_path: Path, mode: str) -> None:
    """Every byte arrives once and in its place, although some answers are lost."""
    typed = bytes(random.Random(2).choices(range(97, 123), k=60))
    with postgres.server() as server:
        async with running(tmp_path, server) as hosts:
            node, job = api(hosts), await reader(hosts, tmp_path / "typed")
            async with asyncio.TaskGroup() as tasks:
                for offset, each in enumerate(typed):
                    if offset in {20, 40}:
                        tasks.create_task(_restart_database(hosts, mode))
                    await type_surely(node, job, bytes([each]), offset)
            await type_surely(node, job, b"", len(typed), end=True)
            await until(lambda: (tmp_path / "typed").stat().st_size >= len(typed), what="all is read")
            assert (tmp_path / "typed").read_bytes() == typed


@pytest.mark.heavy
async def test_a_command_that_the_history_does_not_know_is_ended_from_another_node(hosts: Hosts) -> None:
    """Keepers of all hosts are listed at each; the one that is meant may have to be named with its host."""
    node, job = api(hosts), await api(hosts).submit("sleep 600")
    keeper = await hosts.worker.running(job)
    await hosts.worker.kill()
    hosts.execute("DELETE FROM jobs")
    await hosts.worker.start()

    async def listed() -> Any:
        return (await node.get("/api/keepers"))[2]["keepers"]

    (row,) = await until(listed, what="the keeper is listed")
    assert (row["host"], row["pid"], row["job_id"]) == ("worker", keeper.pid, job)
    path = f"/api/keepers/{row['keeper']}"
    assert (await node.ask("DELETE", f"{path}?host=b"))[0] == 404
    assert lives(keeper.pid)
    assert (await node.ask("DELETE", f"{path}?host=worker"))[0] == 202
    await until(lambda: not lives(keeper.pid), what="the keeper has ended")
    await until(_is_empty(listed), what="the list is empty")


def _is_empty(listed: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[bool]]:
    async def is_empty() -> bool:
        return not await listed()

    return is_empty


@pytest.mark.heavy
async def test_offsets_are_exact_over_two_nodes(hosts: Hosts, tmp_path: Path, seed: int) -> None:
    """However several clients type at two nodes: what was accepted is the input, each piece at its offset, once."""
    chance = random.Random(seed)
    for number in range(5):
        path = tmp_path / f"typed{number}"
        job, accepted = await reader(hosts, path), dict[int, bytes]()
        await asyncio.gather(*(_write_pieces(hosts, job, chance, accepted) for _ in range(3)))
        total = sum(map(len, accepted.values()))
        assert (await type_into(api(hosts), job, b"", total, end=True))[0] == 204
        assert (await api(hosts).result(job))["exit_code"] == 0
        assert path.read_bytes() == b"".join(accepted[offset] for offset in sorted(accepted))
        ends = {offset + len(piece) for offset, piece in accepted.items()}
        assert accepted.keys() | {total} == ends | {0}


async def _write_pieces(hosts: Hosts, job: int, chance: random.Random, accepted: dict[int, bytes]) -> None:
    offset = 0
    for _ in range(20):
        piece = chance.randbytes(chance.choice((1, 1, 3, 1000)))
        sent = max(0, offset + chance.choice((0, 0, 0, 1, -1)))
        status, _, body = await type_into(api(hosts, chance.choice("ab")), job, piece, sent)
        if status == 204:
            assert sent not in accepted
            accepted[sent], offset = piece, sent + len(piece)
        else:
            assert body["type"] == "/problems/wrong-offset", body
            offset = body["offset"]
