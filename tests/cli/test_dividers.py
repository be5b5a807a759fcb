"""Lines between parts of a job's output: where an attempt ended, a cancel was requested, and how the job ended."""

import re

import pytest

from tests.support.command_line import Typist
from tests.support.service import Service

pytestmark = pytest.mark.asyncio(loop_scope="session")

COMMAND = "echo one; printf '\\033[31mtwo'; exit 3"
BYTES = b"one\n\x1b[31mtwo" * 2
MESSAGE = r"--- attempt 1 of 2 exited with 3, \d{4}-\d\d-\d\d \d\d:\d\d:\d\d ---"
DIVIDER = rf"\x1b\[0;2m{MESSAGE}\x1b\[0m\r\n"
ON_TERMINAL = rf"one\r\n\x1b\[31mtwo(?:\x1b\[0m)?\r\n{DIVIDER}one\r\n\x1b\[31mtwo(?:\x1b\[0m)?"


@pytest.mark.heavy
async def test_a_terminal_shows_where_an_attempt_ended(shared: Service, typist: Typist) -> None:
    """`run` shows it as it happens, `logs` later, also of one stream; without --dividers it does not."""
    async with typist.at_terminal("run", "--retries", "1", COMMAND) as screen:
        assert await screen.code() == 3
    assert re.fullmatch(ON_TERMINAL, screen.shown.decode()), screen.shown
    for options in ((), ("--stdout",), ("--stdout", "-f"), ("--from", "1")):
        async with typist.at_terminal("logs", *options) as screen:
            assert await screen.code() == 0
        assert re.fullmatch(ON_TERMINAL.replace("one", "ne" if options == ("--from", "1") else "one", 1),
                            screen.shown.decode()), (options, screen.shown)  # fmt: skip
    async with typist.at_terminal("logs", "--no-dividers") as screen:
        assert await screen.code() == 0
    assert screen.shown == BYTES.replace(b"\n", b"\r\n") + b"\x1b[0m"


@pytest.mark.heavy
async def test_pipes_get_the_bytes_of_the_command_alone(shared: Service, typist: Typist) -> None:
    """Where output is no terminal, nothing is between attempts; dividers that are asked for are on standard error."""
    assert await typist.run("run", "--retries", "1", COMMAND) == (3, BYTES, "")
    assert await typist.run("logs") == (0, BYTES, "")
    asked = await typist.run("logs", "--dividers")
    assert (asked.code, asked.out) == (0, BYTES)
    assert re.fullmatch(f"{MESSAGE}\n", asked.err)
    assert await typist.run("logs", "--dividers", "--attempt", 2) == (0, BYTES[: len(BYTES) // 2], "")
    async with typist.at_terminal("logs", pipe="| cat") as screen:
        assert await screen.code() == 0
    assert screen.shown == BYTES.replace(b"\n", b"\r\n")


@pytest.mark.heavy
async def test_dividers_are_no_lines(shared: Service, typist: Typist) -> None:
    """`logs -n` counts the lines of the command, and keeps the dividers between those that are left."""
    job = (await shared.run("printf 'one\\ntwo'; exit 3", retries={"max": 1}))["job_id"]
    expected = {1: "two", 2: rf"two\n{MESSAGE}\none\ntwo", 9: rf"one\ntwo\n{MESSAGE}\none\ntwo"}
    for lines, pattern in expected.items():
        async with typist.at_terminal("logs", "-n", lines, "--dividers", job, pipe="2>&1 | cat") as screen:
            assert await screen.code() == 0
        assert re.fullmatch(pattern, screen.shown.decode().replace("\r\n", "\n")), (lines, screen.shown)


async def test_logs_shows_a_cancel_and_an_end_that_is_no_exit(shared: Service, typist: Typist) -> None:
    """A follower at a terminal sees where a cancel was requested, and how the job ended."""
    job = await shared.submit("trap 'echo cleaning up; exit 1' TERM; echo working; sleep 1000 & wait")
    async with typist.at_terminal("logs", "-f", job) as screen:
        await screen.shows(b"working\r\n")
        await shared.ask("POST", f"/api/jobs/{job}/cancel")
        assert await screen.code() == 0
    shown = re.sub(r"\x1b\[(0;2|0)m", "", screen.shown.decode()).split("\r\n")
    assert shown == [
        "working", "--- cancel requested ---", "cleaning up", f"--- job {job} was cancelled ---", "",
    ]  # fmt: skip


async def test_each_attempt_has_a_terminal_as_new(typist: Typist) -> None:
    """What an attempt left changed on this terminal is undone, and the job's terminal has its size again."""
    command = (
        "printf '\\033[?1049h\\033[?25lready'; until [ \"$(stty size)\" = '10 40' ]; do sleep 0.02; done; "
        "echo fits; read x; exit 3"
    )
    async with typist.at_terminal("run", "-t", "--retries", "1", command) as screen:
        await screen.shows(b"ready")
        screen.resize(10, 40)
        await screen.shows(b"fits")
        screen.types(b"\r")
        await screen.shows(b"[attempt 1 of 2 exited with 3")
        await screen.shows(b"fits", after=b"[attempt 1 of 2 exited with 3")
        screen.types(b"\r")
        assert await screen.code() == 3
    left, _, _ = screen.shown.partition(b"[attempt 1")
    assert left.endswith(b"\x1b[?1049l\r\n")
    assert b"\x1b[?25h" in left
