"""`run -t` and `attach`: this terminal as the terminal of a job."""

import asyncio
import os
import re

import pytest

from tests.support.command_line import Screen, Typist
from tests.support.service import Service
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="session")

CTRL_C, DETACH = b"\x03", b"\x1c"
DETACHES = b"detaches\r\n"
LOOP = "while :; do sleep 0.02; done"
# A program that draws the whole screen, and again only when the size is another one.
DRAWS = (
    "import os, signal, time\n"
    "size, asked = None, True\n"
    "def ask(*_):\n"
    "    global asked; asked = True\n"
    "signal.signal(signal.SIGWINCH, ask)\n"
    "os.write(1, b'\\x1b[?1049h\\x1b[?1h\\x1b[6n' + b'x\\r' * 50_000)\n"
    "while True:\n"
    "    if asked and size != tuple(os.get_terminal_size()):\n"
    "        size = tuple(os.get_terminal_size())\n"
    "        os.write(1, b'\\x1b[H\\x1b[2JDRAWN %dx%d' % size)\n"
    "    asked = False; time.sleep(0.01)\n"
)


def number_of(screen: Screen) -> int:
    """Return the id of the job, from the first line."""
    found = re.search(rb"job (\d+): Ctrl-\\ detaches\r\n", screen.shown)
    assert found, screen.shown
    return int(found[1])


async def cancel(service: Service, job: int) -> None:
    """Cancel a job that would run on."""
    assert (await service.ask("POST", f"/api/jobs/{job}/cancel"))[0] == 202


@pytest.mark.heavy
async def test_the_command_has_this_terminal(typist: Typist) -> None:
    """It has the same size and TERM; a line that is typed is echoed once; the exit code is the command's."""
    typist.environment["TERM"] = "vt220"
    command = "stty size; echo $TERM; tty >&2; read x; echo got $x; exit 7"
    async with typist.at_terminal("run", "-t", command, rows=12, columns=50) as screen:
        await screen.shows(b"/dev/pts/")
        screen.types("да\r".encode())
        assert await screen.code() == 7
        shown = screen.shown.partition(DETACHES)[2].decode()
        assert re.fullmatch(r"12 50\r\nvt220\r\n/dev/pts/\d+\r\nда\r\ngot да\r\n.*", shown, re.DOTALL), shown


@pytest.mark.heavy
async def test_ctrl_c_and_the_end_of_input_are_the_commands(typist: Typist) -> None:
    """Ctrl-C interrupts the command and asks nothing here; Ctrl-D ends its input."""
    command = f"trap 'echo interrupted; cat; exit 5' INT; echo ready; {LOOP}"
    async with typist.at_terminal("run", "-t", command) as screen:
        await screen.shows(b"ready\r\n")
        screen.types(CTRL_C)
        await screen.shows(b"interrupted\r\n")
        screen.types(b"line\r\x04")
        assert await screen.code() == 5
        assert b"[c/L]" not in screen.shown


@pytest.mark.heavy
async def test_ctrl_z_leaves_nothing_stopped_for_good(shared: Service, typist: Typist) -> None:
    """A shell in the job has the key for its jobs; a command that no shell could resume is continued."""
    async with typist.at_terminal("run", "-t", "while read x; do echo got $x; done") as screen:
        await screen.shows(DETACHES)
        screen.types(b"one\r")
        await screen.shows(b"got one")
        screen.types(b"\x1a")
        await screen.shows(b"it was continued")
        screen.types(b"two\r\x04")
        await screen.shows(b"got two")
        assert await screen.code() == 0
    async with typist.at_terminal("run", "-t", "--clean", "bash --norc -i") as screen:
        await screen.shows(b"# " if os.getuid() == 0 else b"$ ")
        screen.types(b"sleep 60\r")
        await screen.shows(b"sleep 60\r\n")
        screen.types(b"\x1a")
        await screen.shows(b"Stopped")
        screen.types(b"echo is$((1))alive\r")
        await screen.shows(b"is1alive")
        screen.types(DETACH)
        assert await screen.code() == 0
        assert b"it was continued" not in screen.shown
        await cancel(shared, number_of(screen))


async def test_the_size_follows(typist: Typist) -> None:
    """When this terminal gets another size, the job's gets it too, and its foreground SIGWINCH."""
    async with typist.at_terminal("run", "-t", f"trap 'stty size' WINCH; echo ready; {LOOP}") as screen:
        await screen.shows(b"ready\r\n")
        screen.resize(30, 100)
        await screen.shows(b"30 100\r\n")
        screen.types(CTRL_C)
        assert await screen.code() == 130


@pytest.mark.heavy
async def test_detach_and_attach(shared: Service, typist: Typist) -> None:
    """The key leaves the job running and the terminal as it was; `attach` shows what was, and types on."""
    command = "printf '\\033[?25l\\033[?2004hname? \\033[6n'; read x; echo got $x; exit 3"
    async with typist.at_terminal("run", "-t", command, pipe="; stty -a") as screen:
        await screen.shows(b"name? ")
        job = number_of(screen)
        screen.types(b"ab" + DETACH)
        await screen.shows(f"job {job} continues: use `shellrunner attach {job}`".encode())
        assert await screen.code() == 0
        assert b"\x1b[?2004l" in screen.shown
        assert b"\x1b[?25h" in screen.shown
        assert {b"icanon", b"echo"} <= {*re.split(rb"[\s;]+", screen.shown)}
    async with typist.at_terminal("attach", job) as screen:
        await screen.shows(b"name? ")
        await screen.shows(b"ab")
        assert b"\x1b[6n" not in screen.shown, "the terminal would type its answer"
        await screen.shows(b"\x1b[?2004h")
        screen.types(b"c\r")
        await screen.shows(b"got abc\r\n")
        assert await screen.code() == 3


@pytest.mark.heavy
async def test_a_full_screen_is_drawn_again(shared: Service, typist: Typist) -> None:
    """The program is asked to draw, also if the size is the same as before; the terminal gets its modes."""
    number = (await typist.run("run", "-dt", "--", "python3", "-c", DRAWS)).out.decode().strip()
    await until(lambda: drawn(shared, number))
    for rows, columns in ((24, 80), (12, 50)):
        async with typist.at_terminal("attach", number, rows=rows, columns=columns) as screen:
            await screen.shows(b"\x1b[?1h")
            await until(lambda: screen.shown.endswith(b"DRAWN %dx%d" % (columns, rows)))  # noqa: B023
            assert screen.shown.count(b"x\r") < 40_000
            screen.types(b"\x1b[92;5u")  # the key as terminals send it in other modes
            assert await screen.code() == 0
            assert b"\x1b[?1049l" in screen.shown.rpartition(b"DRAWN")[2]
    await cancel(shared, int(number))


async def drawn(service: Service, number: str) -> bool:
    """Return whether the program has drawn."""
    return b"DRAWN" in (await service.get(f"/api/statuses/{number}/output"))[2]


@pytest.mark.heavy
async def test_one_types_and_the_others_watch(shared: Service, typist: Typist) -> None:
    """A second terminal is refused until it takes the place, or the first one has left; a third may only watch."""
    command = "echo ready; while read x; do printf 'got %s\\n\\033]0;title\\007' $x; done"
    async with typist.at_terminal("run", "-t", command) as first:
        await first.shows(b"ready\r\n")
        job = number_of(first)
        async with (
            typist.at_terminal("attach", job, rows=12) as second,
            typist.at_terminal("attach", "--read-only", job, columns=40) as third,
        ):
            await second.shows(b"[another terminal is typing into this job")
            await third.shows(b"[the job's terminal has 24 rows and 80 columns]")
            assert b"\x1b[?7l" in third.shown.partition(b"ready\r\n")[0], "longer lines are cut"
            second.types(b"no\r")
            await second.shows(b"\a")
            first.types(b"one\r")
            for screen in (first, second, third):
                await screen.shows(b"got one\r\n")
            assert b"got no" not in first.shown
            third.types(b"never\r")
            first.types(DETACH)
            assert await first.code() == 0
            await until(lambda: types_into(second, b"two\r", b"got two\r\n"))
            async with typist.at_terminal("attach", "--take", job) as fourth:
                await fourth.shows(b"got two\r\n")
                await until(lambda: types_into(fourth, b"three\r", b"got three\r\n"))
                second.types(b"four\r")
                await second.shows(b"[another terminal is typing into this job", after=b"got three\r\n")
                fourth.types(b"\x04")
                assert [await screen.code() for screen in (second, third, fourth)] == [0, 0, 0]
                assert b"got never" not in third.shown
                assert b"\x1b]0;title" in first.shown
                assert b"\x1b]" not in third.shown
                assert b"got four" not in third.shown


async def types_into(screen: Screen, keys: bytes, answer: bytes) -> bool:
    """Type until the command has read it: nobody sees the moment from which a terminal may type."""
    if answer not in screen.shown:
        screen.types(keys)
        await asyncio.sleep(0.1)
    return answer in screen.shown


@pytest.mark.heavy
async def test_what_cannot_be_attached(shared: Service, typist: Typist) -> None:
    """Without a terminal here or there, or of a job that is done, it fails with 125 and a way on."""
    assert (await typist.run("run", "-t", "stty size; cat")).out == b"24 80\r\n"  # nobody types
    done = await typist.run("attach", "1")
    assert (done.code, "use `shellrunner logs -f`" in done.err) == (125, True)
    plain, over = await shared.submit("sleep 60"), (await shared.run("true", tty=True))["job_id"]
    for job, words in (
        (plain, b"has no terminal: use `shellrunner logs -f"),
        (over, b"is done: use `shellrunner logs "),
    ):
        async with typist.at_terminal("attach", job) as screen:
            assert await screen.code() == 125
            assert words in screen.shown
    await cancel(shared, plain)
    for options, message in (
        (("attach", "--take", "-r", "1"), "--take cannot be combined with --read-only"),
        (("attach", "--detach-key", "x", "1"), "invalid key 'x': expected ctrl- and a letter"),
    ):
        done = await typist.run(*options)
        assert (done.code, message in done.err) == (125, True), done.err


@pytest.mark.heavy
async def test_a_queued_job_is_waited_for_with_the_terminal_as_it_is(shared: Service, typist: Typist) -> None:
    """Until the job runs, Ctrl-C leaves it, and says how to come back."""
    await shared.ask("POST", "/api/queues/one/pause")
    try:
        async with typist.at_terminal("run", "-t", "--queue", "one", "cat") as screen:
            await screen.shows(DETACHES)
            job = number_of(screen)
            await screen.shows(f"job {job} is queued: queue one is paused, ".encode())
            screen.types(CTRL_C)
            assert await screen.code() == 130
            assert f"shellrunner attach {job}".encode() in screen.shown
    finally:
        await cancel(shared, job)
        await shared.ask("POST", "/api/queues/one/resume")
