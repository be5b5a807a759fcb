"""The command line in a real terminal: Ctrl-C, colours, what is drawn and what is not, narrow and broken ones."""

import asyncio
import re

import pytest

from tests.support.waiting import SOON, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

CTRL_C, CTRL_D = b"\x03", b"\x04"
ESCAPE = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
STUBBORN = "trap '' TERM; echo $SHELLRUNNER_JOB_ID; sleep 60"


async def begun(screen):
    """The number of the job, which the command writes first."""
    await until(lambda: re.search(rb"^(\d+)\r\n", screen.shown))
    return int(screen.shown.split(b"\r\n")[0])


async def test_ctrl_c_asks_and_c_cancels(shared, typist):
    """The question names the job; `c` ends it; the code is 130."""
    async with typist.at_terminal("run", "echo $SHELLRUNNER_JOB_ID; sleep 60") as screen:
        number = await begun(screen)
        screen.types(CTRL_C)
        await screen.shows(f"Cancel job {number}, or leave it running? [c/L] ".encode())
        assert (await shared.status(number))["state"] == "running"
        screen.types(b"c\r")
        assert await screen.code() == 130
        assert f"job {number} was cancelled".encode() in screen.shown
    assert (await shared.status(number))["ending"] == "cancelled"


@pytest.mark.parametrize("answer", [b"\r", b"l\r", b"no\r", CTRL_D, CTRL_C])
async def test_ctrl_c_and_anything_else_leaves_it_running(shared, typist, answer):
    """Also Ctrl-D, and a second Ctrl-C while the question stands; how to reach the job is said."""
    async with typist.at_terminal("run", "echo $SHELLRUNNER_JOB_ID; sleep 60") as screen:
        number = await begun(screen)
        screen.types(CTRL_C)
        await screen.shows(b"[c/L] ")
        screen.types(answer)
        assert await screen.code() == 130
        assert f"job {number} continues: use `shellrunner logs -f {number}`".encode() in screen.shown
    status = await shared.status(number)
    assert (status["state"], status["cancelling"]) == ("running", False)
    await shared.ask("POST", f"/api/jobs/{number}/cancel")


async def test_ctrl_c_while_it_is_being_ended_leaves_at_once(shared, typist):
    """Whoever has cancelled need not wait for what does not want to end."""
    async with typist.at_terminal("run", STUBBORN) as screen:
        number = await begun(screen)
        screen.types(CTRL_C)
        await screen.shows(b"[c/L] ")
        screen.types(b"c\r")
        await until(lambda: cancelling(shared, number))
        screen.types(CTRL_C)
        assert await screen.code() == 130


async def cancelling(shared, number):
    """Whether its end was asked for."""
    status = await shared.status(number)
    return status["cancelling"] or status["done"]


async def test_nothing_is_written_over_the_question(shared, typist):
    """Neither output that comes meanwhile, which is shown afterwards, nor how long it takes."""
    go = typist.home / "go"
    # Between its output and its end, how long it takes would have been drawn again.
    number = typist.home / "number"
    command = f"echo $SHELLRUNNER_JOB_ID > {number}; until [ -e {go} ]; do sleep 0.02; done; echo after; sleep 1.5"
    async with typist.at_terminal("run", command) as screen:
        await screen.shows(b" is running, ")
        screen.types(CTRL_C)
        await screen.shows(b"[c/L] ")
        go.touch()
        await shared.result(int(number.read_text()))
        assert screen.shown.endswith(b"[c/L] ")
        screen.types(b"c\r")
        assert await screen.code() == 130
        # Until the request to cancel is answered, how long it takes may be drawn again, and erased.
        drawn = rb"(\r\x1b\[K\x1b\[2m[^\x1b]*\x1b\[0m\r\x1b\[K)*"
        assert re.search(rb"\[c/L\] c\r\n" + drawn + rb"after\r\n$", screen.shown)


async def test_what_is_typed_goes_to_the_command(typist):
    """Line by line with `--stdin -`, until Ctrl-D."""
    async with typist.at_terminal("run", "--stdin", "-", "--", "sed", "-u", "s/^/got /") as screen:
        screen.types(b"one\r")
        await screen.shows(b"got one\r\n")
        screen.types("два\r".encode())
        await screen.shows("got два\r\n".encode())
        screen.types(CTRL_D)
        assert await screen.code() == 0


async def test_ctrl_c_asks_also_while_input_is_typed(typist):
    """The answer is no input."""
    async with typist.at_terminal("run", "--stdin", "-", "sed -u 's/^/got /'") as screen:
        screen.types(b"one\r")
        await screen.shows(b"got one\r\n")
        screen.types(CTRL_C)
        await screen.shows(b"[c/L] ")
        screen.types(b"c\r")
        assert await screen.code() == 130
        assert b"got c" not in screen.shown


async def test_a_long_wait_is_told_on_one_line_that_vanishes(shared, typist):
    """While a job is queued it says so and for how long, within the width; nothing of it is left afterwards."""
    await shared.ask("POST", "/api/queues/one/pause")
    try:
        async with typist.at_terminal("run", "--queue", "one", "echo here", columns=20) as screen:
            await until(lambda: re.search(rb"\x1b\[2mjob \d+ is queued, \d", screen.shown))
            await shared.ask("POST", "/api/queues/one/resume")
            assert await screen.code() == 0
            lines = re.findall(rb"\r\x1b\[K\x1b\[2m([^\x1b]*)", screen.shown)
            assert max(map(len, lines)) < 20
            assert screen.shown.endswith(b"\r\x1b[Khere\r\n")
    finally:
        await shared.ask("POST", "/api/queues/one/resume")


async def test_a_dumb_terminal_gets_no_escapes(shared, typist):
    """Nothing is drawn where TERM says that nothing can be."""
    typist.environment["TERM"] = "dumb"
    async with typist.at_terminal("run", "sleep 1.6; echo here") as screen:
        assert await screen.code() == 0
        assert screen.shown == b"here\r\n"


async def test_a_command_s_unfinished_line_is_left_alone(typist):
    """A prompt of the command's is not drawn over, and our words begin a line of their own."""
    async with typist.at_terminal("run", "printf 'name? '; sleep 1.6; kill -9 $$") as screen:
        assert await screen.code() == 137
        assert re.fullmatch(rb"name\? \r\njob \d+ was terminated by SIGKILL\r\n", screen.shown)


@pytest.mark.parametrize(
    ("terminal", "variable", "coloured"), [(True, "", True), (True, "1", False), (False, "", False)]
)
async def test_colours_only_on_a_terminal_and_not_with_no_color(shared, typist, terminal, variable, coloured):
    """A state has its colour where somebody sees it, and NO_COLOR is honoured."""
    await shared.run("exit 3")
    typist.environment["NO_COLOR"] = variable
    async with typist.at_terminal("ps", "-a", pipe="" if terminal else "| cat") as screen:
        assert await screen.code() == 0
        assert b"exited 3" in ESCAPE.sub(b"", screen.shown)
        assert (b"\x1b[31m" in screen.shown) is coloured
        if not terminal:
            assert b"\x1b" not in screen.shown


@pytest.mark.parametrize("columns", [200, 40, 1, 0])
async def test_a_table_fits_any_width(shared, typist, columns):
    """No line is longer than the terminal is wide; 0 is unknown, and then it is as wide as most are."""
    await shared.submit("true; : " + "слово " * 50, labels={"name": "имя"})
    async with typist.at_terminal("ps", "-a", columns=columns) as screen:
        assert await screen.code() == 0
        lines = ESCAPE.sub(b"", screen.shown).decode().split("\r\n")
        assert max(map(len, lines)) <= (columns or 80)


async def test_elsewhere_than_on_a_terminal_nothing_is_cut(shared, typist):
    """A whole command, on one line, with nothing in it that a terminal would obey."""
    command = "true '" + "x" * 500 + "\n\x1b[2J\u202e'"
    await shared.submit(command, labels={"name": "long"})
    shown = (await typist.run("ps", "-a", "--filter", "label=name:long")).out.decode()
    assert shown.splitlines()[1].endswith("x" * 500 + "\\n\\u001b[2J\\u202e'")


async def test_watch_shows_changes_and_leaves_the_screen_as_it_was(typist):
    """A job appears as soon as it runs, and goes when it is done; Ctrl-C ends with 0 and restores the screen."""
    async with typist.at_terminal("ps", "--watch") as screen:
        await screen.shows(b"\x1b[?1049h")
        await screen.shows(b"COMMAND")
        async with typist.begin(
            "run", "--stdin", "-", "cat >/dev/null # seen", stdin=asyncio.subprocess.PIPE
        ) as process:
            await screen.shows(b"# seen")
            process.stdin.close()
            await asyncio.wait_for(process.wait(), SOON)
        await until(lambda: b"# seen" not in screen.shown.rpartition(b"\x1b[H")[2])
        screen.types(CTRL_C)
        assert await screen.code() == 0
        assert screen.shown.endswith(b"\x1b[?25h\x1b[?1049l")


async def test_a_pipe_that_closes_ends_it_quietly(shared, typist):
    """`logs | head -1` shows a line, and says nothing more."""
    number = (await shared.run("seq 300000"))["job_id"]
    async with typist.at_terminal("logs", number, pipe='| head -1; echo "${PIPESTATUS[0]}"') as screen:
        assert await screen.code() == 0
        assert screen.shown == b"1\r\n141\r\n"


async def test_a_terminal_that_hangs_up_ends_it(shared, typist):
    """The window is closed: nothing is left of the call, and the job goes on."""
    typist.environment["PYTHONWARNINGS"] = "error"
    async with typist.at_terminal("run", "echo $SHELLRUNNER_JOB_ID; while echo tick; do sleep 0.02; done") as screen:
        number = await begun(screen)
        screen.hang_up()
        await screen.code()
    assert (await shared.status(number))["state"] == "running"
    await shared.ask("POST", f"/api/jobs/{number}/cancel")


async def test_prune_asks_and_takes_no_for_an_answer(shared, typist):
    """It says how many, and only `y` removes them."""
    for _ in range(2):
        await shared.run("true", labels={"prune": "me"})
    for answer, words, left in ((b"\r", b"nothing was deleted", 2), (b"y\r", b"deleted 2 jobs", 0)):
        async with typist.at_terminal("prune", "--filter", "label=prune:me") as screen:
            await screen.shows(b"Delete 2 jobs from the history? [y/N] ")
            screen.types(answer)
            assert await screen.code() == (0 if left == 0 else 1)
            assert words in screen.shown
        _, _, listed = await shared.get("/api/jobs?label=prune:me")
        assert len(listed["jobs"]) == left


async def test_the_standard_descriptors_are_never_made_nonblocking(typist):
    """Whoever shares the terminal with us can go on writing to it."""
    check = "import fcntl, os; print([fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK for fd in range(3)])"
    async with typist.at_terminal("run", "--stdin", "-", "head -1", pipe=f"; python3 -c '{check}'") as screen:
        screen.types(b"line\r")
        assert await screen.code() == 0
        await screen.shows(b"[0, 0, 0]")
