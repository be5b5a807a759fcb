"""The three programs of the how-to page, in three languages: each runs, and survives breaks of its connections."""

import asyncio
import re
import shutil
import sys
from ast import literal_eval
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support import tour
from tests.support.service import Service
from tests.support.tcp_proxy import IN_BODY, IN_EVENT, IN_HEAD, TcpProxy
from tests.support.waiting import WAIT_TIMEOUT

HOW_TO = Path(__file__).parent.parent.parent / "docs/how-to"
PAGE, GUIDE = HOW_TO / "programs.md", HOW_TO / "follow.md"
PROGRAMS = dict(
    re.findall(r"^<!-- program: (\S+) -->\n```\w+\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
)
INTERPRETERS = {"py": [sys.executable], "sh": ["bash"], "mjs": ["node"]}
NEEDED = {"py": (), "sh": ("bash", "curl", "jq"), "mjs": ("node",)}
# The pauses of the programs are shortened, so that breaks cost no time; and how often they ask, where nobody answers.
SHORTER = {"sleep 1\n": "sleep 0.05\n", "sleep(1000)": "sleep(50)"}
TWICE = {"{1..60}": "{1..2}", "tries = 60;": "tries = 2;"}
POLLING = {"wait=55": "wait=0"}
IN_SECOND_HEAD = rb"(?s)HTTP/1.+" + IN_HEAD  # of a connection that is used again

NOWHERE = "http://127.0.0.1:1"

pytestmark = pytest.mark.asyncio(loop_scope="module")
each_language = pytest.mark.parametrize(
    "language",
    [
        pytest.param(
            language,
            marks=pytest.mark.skipif(not all(map(shutil.which, needed)), reason=f"{' and '.join(needed)} are needed"),
        )
        for language, needed in NEEDED.items()
    ],
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """Yield a service for all programs."""
    service = await Service(tmp_path_factory.mktemp("programs") / "state").start()
    yield service
    await service.clear_away()


async def run(
    name: str, url: str, path: Path, *words: str, changes: Mapping[str, str] = SHORTER
) -> tuple[int | None, str, str]:
    """Run a program of the page; return its exit code and what it has written."""
    text = PROGRAMS[name]
    for old, new in changes.items():
        text = text.replace(old, new)
    (path / name).write_text(text)
    return await execute([*INTERPRETERS[name.partition(".")[2]], name, *words], path, SHELLRUNNER_URL=url)


async def execute(command: Sequence[str], path: Path, **environment: str) -> tuple[int | None, str, str]:
    """Run a command; return its exit code and what it has written."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=path, env={"PATH": "/usr/local/bin:/usr/bin:/bin", "NODE_NO_WARNINGS": "1", **environment},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(WAIT_TIMEOUT):
        output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


@pytest.mark.heavy
@each_language
async def test_run_and_wait(language: str, service: Service, tmp_path: Path) -> None:
    """Output and exit code are the command's; the answers break off in head and body, and one job runs."""
    command = ["sh", "-c", 'echo "$1"; echo "$1" >&2; exit 7', "sh", f'"мир" {language}']
    async with TcpProxy(service.url) as between:
        between.breaks = [IN_HEAD, IN_BODY]
        written = await run(f"run.{language}", between.url, tmp_path, *command)
    assert between.broken == 2
    assert written == (7, f'"мир" {language}\n', f'"мир" {language}\n')
    _, _, found = await service.get("/api/jobs?fields=argv&limit=1000")
    assert [row["argv"] for row in found["jobs"]].count(command) == 1


@pytest.mark.heavy
@each_language
async def test_a_job_is_asked_for_until_it_is_done(language: str, service: Service, tmp_path: Path) -> None:
    """The answer to the submission is not the result yet: the status is asked for, also where that breaks off."""
    async with TcpProxy(service.url) as between:
        between.breaks = [IN_SECOND_HEAD, IN_HEAD, IN_BODY]
        command = ["sh", "-c", "sleep 0.5; echo done"]
        written = await run(f"run.{language}", between.url, tmp_path, *command, changes=SHORTER | POLLING)
    assert written == (0, "done\n", "")
    assert between.broken >= 2
    assert sum(line.startswith("GET /api/statuses/") for line in between.asked) >= 2


@pytest.mark.heavy
@each_language
async def test_without_an_exit_code(language: str, service: Service, tmp_path: Path) -> None:
    """A job that is refused, was killed, or whose service does not answer, is 125 with the reason."""
    name = f"run.{language}"
    assert await run(name, service.url, tmp_path, "") == (125, "", "#/argv: the first must name a program\n")
    code, _, errors = await run(name, service.url, tmp_path, "sh", "-c", "kill -9 $$")
    assert (code, errors.endswith(": signalled SIGKILL\n")) == (125, True)
    code, _, errors = await run(name, NOWHERE, tmp_path, "true", changes=SHORTER | TWICE)
    assert (code, NOWHERE in errors) == (125, True)


@pytest.mark.heavy
@each_language
async def test_fan_out(language: str, service: Service, tmp_path: Path) -> None:
    """Fifty jobs run, and their outputs are printed in order."""
    code, output, errors = await run(f"many.{language}", service.url, tmp_path)
    assert output.splitlines() == [f"{n} squared is {n * n}" for n in range(50)]
    assert (code, errors.startswith("50 jobs, 0 failed")) == (0, True)


@pytest.mark.heavy
@each_language
async def test_follow_with_reconnect(language: str, service: Service, tmp_path: Path) -> None:
    """Output of both streams is exact to the byte, wherever the connection breaks; and the exit code."""
    command = "for i in 1 2 3 4 5; do echo $i; echo e$i >&2; sleep 0.05; done; printf 'a\\0b'; exit 4"
    _, _, job = await service.ask("POST", "/api/jobs", json={"command": command})
    async with TcpProxy(service.url) as between:
        between.breaks = [IN_HEAD, IN_BODY, IN_EVENT, IN_EVENT + rb"data: ."]
        written = await run(f"follow.{language}", between.url, tmp_path, str(job["job_id"]))
    assert between.broken == 4
    assert written == (4, "1\n2\n3\n4\n5\na\0b", "e1\ne2\ne3\ne4\ne5\n")


@pytest.mark.heavy
@each_language
async def test_a_job_that_cannot_be_followed(language: str, service: Service, tmp_path: Path) -> None:
    """There is none of that number, or no service: that is 125 with a reason; the former is not tried again."""
    async with TcpProxy(service.url) as between:
        code, _, errors = await run(f"follow.{language}", between.url, tmp_path, "999999")
    assert (code, "999999" in errors, len(between.asked)) == (125, True, 1)
    code, _, errors = await run(f"follow.{language}", NOWHERE, tmp_path, "1", changes=SHORTER | TWICE)
    assert (code, NOWHERE in errors) == (125, True)


@pytest.mark.heavy
async def test_the_python_of_the_guide_to_following(service: Service, tmp_path: Path) -> None:
    """What follow.md shows is run: with the client that blocks, with the other, and with the standard library."""
    blocks = [block.text for block in tour.blocks(GUIDE.read_text()) if block.language == "python"]
    _, _, job = await service.ask("POST", "/api/jobs", json={"command": "echo out; exit 3"})
    blocks[2] += f"\nfor event, data in follow('http://localhost:8000', {job['job_id']}): print(event, data)\n"
    for number, block in enumerate(blocks):
        text = block.replace("http://localhost:8000", service.url).replace("sleep 1;", "sleep 0.1;")
        (tmp_path / f"{number}.py").write_text(text)
    blocking, asynchronous, plain = await asyncio.gather(
        *(execute([sys.executable, f"{number}.py"], tmp_path) for number in range(len(blocks)))
    )
    for code, output, errors in (blocking, asynchronous):
        received, end, *_ = re.split(r"^(exited .*)$", output, flags=re.MULTILINE)
        assert b"".join(literal_eval(line.removeprefix("stdout ")) for line in received.splitlines()) == b"1\n2\n3\n"
        assert (code, end, errors) == (0, "exited 0", "")
    assert asynchronous[1].endswith(" sleep 1000\n")
    *_, last = plain[1].splitlines()
    assert ("stdout {'text': 'out\\n'" in plain[1], last.startswith("done "), "'exit_code': 3" in last) == (True,) * 3


async def test_the_page_has_every_program_in_every_language() -> None:
    """Three programs in three languages are on the page, and no other."""
    assert set(PROGRAMS) == {f"{name}.{language}" for name in ("run", "many", "follow") for language in NEEDED}
