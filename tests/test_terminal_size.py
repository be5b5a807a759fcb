"""The size and the echo of terminals: what a command notices of a change, what a status says, over restarts."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shellrunner.keeper.protocol import PROTOCOL, STATE_SINCE
from shellrunner.keeper.slot import SlotReader
from tests.support.keepers import ForkServer, Talk, ended, give, start
from tests.support.service import InProcess, Service
from tests.support.sse import parse
from tests.support.waiting import until

SIZE = [31, 97]
SHOW_SIZES = "trap 'stty size' WINCH; echo up; while :; do sleep 0.05; done"
BAD_SIZES: list[tuple[Any, list[str]]] = [
    ({}, ["#/rows", "#/columns"]),
    ({"rows": 24}, ["#/columns"]),
    ({"rows": 0, "columns": 80}, ["#/rows"]),
    ({"rows": 24, "columns": 65_536}, ["#/columns"]),
    ({"rows": "24", "columns": 80}, ["#/rows"]),
    ({"rows": 24, "columns": 80, "echo": True}, ["#/echo"]),
    ([24, 80], ["#"]),
]


async def written(slot: SlotReader, ends_with: bytes) -> bytes:
    """Wait until what job 1 wrote ends so, and return all of it."""

    def found() -> bytes | None:
        record = slot.find(1, "t")
        data = record and slot.data(record, 0, record.progress.get("stdout", 0))
        return data if data and data.endswith(ends_with) else None

    return await until(found, what=f"{ends_with!r} was written")


def resize(keeper: Talk, rows: int, columns: int) -> list[Any]:
    """Ask for a size; return what the keeper sends until it answers."""
    keeper.send(do="resize", job=1, token="t", rows=rows, columns=columns)
    received = [keeper.receive()]
    while received[-1]["say"] != "did":
        received.append(keeper.receive())
    return [(each["say"], each.get("tty", each.get("refused"))) for each in received]


def end(keeper: Talk) -> None:
    """End the command, and see that it has ended."""
    keeper.send(do="cancel", job=1, token="t")
    assert keeper.receive()["say"] == "ended"


async def test_the_foreground_notices_a_new_size(keeping: tuple[Talk, SlotReader]) -> None:
    """It gets SIGWINCH at every request, also for the size that it has; a change is reported before the answer."""
    keeper, slot = keeping
    assert keeper.hello["protocol"] == PROTOCOL >= STATE_SINCE
    start(keeper, 1, SHOW_SIZES, tty=SIZE)
    await written(slot, b"up\r\n")
    assert resize(keeper, 50, 200) == [("state", [50, 200]), ("did", None)]
    await written(slot, b"50 200\r\n")
    assert resize(keeper, 50, 200) == [("did", None)]
    await written(slot, b"50 200\r\n50 200\r\n")
    end(keeper)


async def test_a_size_that_the_command_sets_is_reported(
    fork_server: ForkServer, keeping: tuple[Talk, SlotReader]
) -> None:
    """What the command does to its terminal is known with its next output, and a later server learns it at once."""
    keeper, slot = keeping
    start(keeper, 1, "stty rows 11 cols 22; echo set; exec sleep 600", tty=SIZE)
    await written(slot, b"set\r\n")
    assert keeper.receive() == {"say": "state", "job": 1, "token": "t", "paused": False, "tty": [11, 22]}
    keeper.connection.close()
    later = fork_server.reconnect(1)
    assert later.hello["tty"] == [11, 22]
    end(later)


async def test_only_a_running_command_with_a_terminal_is_resized(keeping: tuple[Talk, SlotReader]) -> None:
    """Without a terminal, and for another job, nothing is done."""
    keeper, _ = keeping
    assert resize(keeper, 1, 1) == [("did", "gone")]
    start(keeper, 1, "exec sleep 600")
    assert resize(keeper, 1, 1) == [("did", "no terminal")]
    end(keeper)


@pytest.mark.parametrize(("echo", "shown"), [(True, b"typed\r\n<typed>\r\n"), (False, b"<typed>\r\n")])
def test_what_is_typed_is_shown_on_request(keeping: tuple[Talk, SlotReader], echo: bool, shown: bytes) -> None:
    """With `echo` the output has the input too, where the terminal shows it; the key for its end leaves no trace."""
    keeper, slot = keeping
    start(keeper, 1, 'read x; echo "<$x>"; cat', tty=SIZE, stream=True, echo=echo)
    assert give(keeper, b"typed\n", end=True) == (6, None)
    assert keeper.receive()["say"] == "ended"
    assert ended(slot, 1)[1] == shown


# Through the service ----------------------------------------------------------------------------------------------


async def set_size(service: Service, job: int, body: Any) -> tuple[int, Any]:
    """POST a size; return the status and the body of the answer."""
    status, _, answer = await service.ask("POST", f"/api/jobs/{job}/tty", json=body)
    return status, answer


async def wrote(service: Service, job: int, end: str) -> None:
    """Wait until the job's output ends so."""

    async def ends() -> bool:
        _, _, output = await service.get(f"/api/statuses/{job}/output")
        return bytes(output).decode().endswith(end)

    await until(ends, what=f"{end!r} was written")


async def sizes(response: aiohttp.ClientResponse, columns: int) -> list[int]:
    """Return the columns in the status events of a stream, up to these."""
    seen: list[int] = []
    async with asyncio.timeout(10):
        async for event in parse(response.content):
            if event.name == "status" and event.data["tty"]:
                seen.append(event.data["tty"]["columns"])
                if seen[-1] == columns:
                    break
    return seen


async def test_a_size_is_set_and_shown(tmp_path: Path) -> None:
    """POST …/tty is 202 with the status, whose `tty` is the present size; who follows it has an event for it."""
    async with InProcess(tmp_path / "state") as service:
        job = await service.submit(SHOW_SIZES, tty={"rows": 24, "columns": 80, "echo": True})
        assert (await service.get(f"/api/jobs/{job}"))[2]["tty"] == {"rows": 24, "columns": 80, "echo": True}
        await wrote(service, job, "up\r\n")
        assert (await service.status(job))["tty"] == {"rows": 24, "columns": 80}
        own, every = (f"{service.url}/api/statuses/{part}events" for part in (f"{job}/", ""))
        async with service.session.get(own) as of_job, service.session.get(every) as of_all:
            code, answer = await set_size(service, job, {"rows": 50, "columns": 200})
            assert (code, answer["tty"]) == (202, {"rows": 50, "columns": 200})
            assert await sizes(of_job, 200) in ([80, 200], [200])
            assert await sizes(of_all, 200) == [200]
        await wrote(service, job, "50 200\r\n")
        for body, pointers in BAD_SIZES:
            code, answer = await set_size(service, job, body)
            assert (code, answer["type"]) == (422, "/problems/invalid-size"), body
            assert [fault["pointer"] for fault in answer["errors"]] == pointers
        await service.ask("POST", f"/api/jobs/{job}/cancel")
        await service.result(job)
        assert (await service.status(job))["tty"] is None
        assert (await set_size(service, job, {"rows": 1, "columns": 1}))[1]["type"] == "/problems/not-running"
        plain = await service.submit("exec sleep 600")
        await until(lambda: service.keeper_of(plain))
        assert (await service.status(plain))["tty"] is None
        assert (await set_size(service, plain, {"rows": 1, "columns": 1}))[1]["type"] == "/problems/no-terminal"
        await service.ask("POST", f"/api/jobs/{plain}/cancel")
        await service.result(plain)


@pytest.mark.heavy
async def test_the_present_size_is_known_after_a_restart(service: Service) -> None:
    """A server that was killed and started again shows the size that the terminal has, not the one of the start."""
    job = await service.submit(SHOW_SIZES, tty=True)
    await wrote(service, job, "up\r\n")
    assert (await set_size(service, job, {"rows": 5, "columns": 50}))[0] == 202
    await service.restart()

    async def present() -> Any:
        status = await service.status(job)
        return status["tty"]["columns"] == 50 and status["tty"]["rows"] == 5

    await until(present, what="the size is known again")
    assert (await set_size(service, job, {"rows": 6, "columns": 60}))[1]["tty"] == {"rows": 6, "columns": 60}
    await wrote(service, job, "6 60\r\n")
