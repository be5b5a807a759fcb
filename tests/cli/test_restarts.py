"""`run` and `wait` across kills and restarts of the server: output, input, exit code, and messages."""

import asyncio
import os
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Typist, finished
from tests.support.service import Service
from tests.support.waiting import WAIT_TIMEOUT, until

SCRIPT = """
import os, random, time
dice = random.Random(5)
for n in range(400):
    os.write(1 + n % 2, dice.randbytes(dice.randrange(1, 3000)))
    time.sleep(0.005)
"""

_RETRIES = b"; retrying"  # drawn at a terminal once the first try has failed

READER = """
import os, time
with open("copy", "ab", 0) as copy:
    while data := os.read(0, 65536):
        copy.write(data)
        time.sleep(0.01)
"""


def written() -> Any:
    """Return what the script writes to each stream."""
    dice, streams = random.Random(5), (bytearray(), bytearray())
    for number in range(400):
        streams[number % 2].extend(dice.randbytes(dice.randrange(1, 3000)))
    return tuple(map(bytes, streams))


@pytest.fixture
def typist(service: Service, tmp_path: Path) -> Typist:
    """Return a user of a service of this test's own, which restarts at the same address."""
    service.program[-1] = service.url.rpartition(":")[2]
    return Typist(tmp_path, SHELLRUNNER_URL=service.url)


@pytest.mark.heavy
async def test_kills_in_the_middle_lose_and_double_nothing(service: Service, typist: Typist) -> None:
    """After three kill -9 and restarts while the command writes, each byte is printed once and the code is right."""
    async with typist.begin("run", "-q", "--", "python3", "-c", SCRIPT) as process:
        streams = asyncio.gather(process.stdout.read(), process.stderr.read())
        await service.running(1)
        for _ in range(3):
            have = (await service.get("/api/statuses/1/output"))[1]["Content-Length"]
            await until(partial(grown, service, int(have)))
            await service.restart()
        out, err = await asyncio.wait_for(streams, WAIT_TIMEOUT)
        assert await process.wait() == 0
    assert (out, err) == written()


async def grown(service: Service, have: Any) -> Any:
    """Return whether the job has written more than `have` bytes, or is done."""
    async with service.session.head(f"{service.url}/api/statuses/1/output") as response:
        return int(response.headers["Content-Length"]) > have or (await service.status(1))["done"]


@pytest.mark.heavy
async def test_a_kill_while_input_is_given_loses_and_doubles_nothing(service: Service, typist: Typist) -> None:
    """Input is resumed at the byte that the server had received, and the command reads each byte once."""
    given = random.Random(6).randbytes(6_000_000)
    reading = "-q", "--stdin", "-", "--cwd", typist.home, "--", "python3", "-c", READER
    async with typist.begin("run", *reading, stdin=asyncio.subprocess.PIPE) as process:
        everything = asyncio.ensure_future(process.communicate(given))
        copy = typist.home / "copy"
        await until(lambda: copy.exists() and copy.stat().st_size > 500_000)
        await service.restart()
        assert copy.stat().st_size < len(given)
        await asyncio.wait_for(everything, WAIT_TIMEOUT)
    assert process.returncode == 0
    assert copy.read_bytes() == given


@pytest.mark.heavy
async def test_a_lost_server_is_reported_where_nothing_is_drawn(service: Service, typist: Typist) -> None:
    """Standard error has one line for the lost connection and one for the restored one; no output is lost."""
    go = typist.home / "go"
    async with typist.begin("run", f"echo begun; until [ -e {go} ]; do sleep 0.05; done; echo ended") as process:
        assert await process.stdout.readline() == b"begun\n"
        await service.kill()
        message = await asyncio.wait_for(process.stderr.readline(), WAIT_TIMEOUT)
        await service.start()
        go.touch()
        done = await finished(process)
    assert message.decode().endswith(": Connection refused; retrying\n")
    assert (done.code, done.out, done.err) == (0, b"ended\n", "reconnected\n")


@pytest.mark.heavy
async def test_wait_outlives_a_restart(service: Service, typist: Typist) -> None:
    """`wait` exits with the command's code, although the server that it asked was replaced."""
    go = typist.home / "go"
    number = (await typist.run("submit", f"until [ -e {go} ]; do sleep 0.05; done; exit 9")).out
    await until(lambda: not has_connection(service))
    async with typist.begin("wait", number.decode().strip()) as process:
        await until(lambda: has_connection(service))
        await service.restart()
        go.touch()
        assert (await finished(process)).code == 9


@pytest.mark.heavy
async def test_wait_and_logs_may_begin_while_the_server_restarts(service: Service, typist: Typist) -> None:
    """A verb that only waits begins before the server is there, and ends with the job's code and output."""
    number = (await typist.run("submit", "echo hi; exit 9")).out.decode().strip()
    assert (await typist.run("wait", number)).code == 9
    await service.kill()
    async with typist.at_terminal("wait", number) as waiting, typist.at_terminal("logs", "-f", number) as following:
        for screen in (waiting, following):
            await screen.shows(_RETRIES)
        await service.start()
        await following.shows(b"hi\r\n")
        assert (await waiting.code(), await following.code()) == (9, 0)


@pytest.mark.heavy
async def test_a_service_that_is_not_there_yet_is_waited_for(service: Service, typist: Typist) -> None:
    """`--wait-server` makes a verb wait for its first connection, and is a duration; without it the verb fails."""
    await service.kill()
    assert (await typist.run("run", "true")).code == 125
    wrong = await typist.run("run", "--wait-server", "soon", "true")
    assert (wrong.code, "Invalid value for '--wait-server': invalid duration 'soon'" in wrong.err) == (125, True)
    assert (await typist.run("run", "--wait-server", "50ms", "true")).code == 125
    async with typist.at_terminal("run", "--wait-server", "30s", "echo here") as screen:
        await screen.shows(_RETRIES)
        await service.start()
        await screen.shows(b"here\r\n")
        assert await screen.code() == 0


@pytest.mark.heavy
async def test_a_submission_whose_answer_is_lost_is_one_job(service: Service, typist: Typist) -> None:
    """A server killed after it received the request sends no response; the retry returns the same job."""
    os.kill(service.process.pid, 19)
    async with typist.begin("run", "echo once") as process:
        await until(lambda: has_connection(service))
        os.kill(service.process.pid, 18)
        await service.restart()
        done = await finished(process)
    assert (done.code, done.out) == (0, b"once\n")
    assert len((await service.get("/api/jobs"))[2]["jobs"]) == 1


def has_connection(service: Service) -> bool:
    """Return whether the server has an open connection."""
    port = f"{int(service.url.rpartition(':')[2]):04X}"
    with open("/proc/net/tcp") as sockets:
        return any(line.split()[1].endswith(f":{port}") and line.split()[3] == "01" for line in sockets)


@pytest.mark.heavy
@pytest.mark.sqlite(reason="the file of the history is deleted")
async def test_a_job_that_somebody_deletes_ends_the_run(service: Service, typist: Typist) -> None:
    """`run` exits with 125 and does not report that the job continues, even if the whole history was deleted."""
    async with typist.begin("run", "--queue", "default", "echo begun; sleep 60") as process:
        assert await process.stdout.readline() == b"begun\n"
        await service.kill()
        for name in os.listdir(service.state_dir):
            if name.startswith("history.db"):
                os.unlink(service.state_dir / name)
        service.program.append("--new-history")
        await service.start()
        done = await finished(process)
    # Before it, perhaps, that the service could not be reached: it depends on how long a start takes.
    assert (done.code, done.err.splitlines()[-1]) == (125, "there is no job 1")
