"""The command line in a real pseudo-terminal: Ctrl-C, colours, the status line, narrow and closed terminals."""

import asyncio
import re
import signal
from typing import Any

import pytest

from tests.cli.test_verbs import runs_now
from tests.support.command_line import Typist
from tests.support.service import Service
from tests.support.waiting import WAIT_TIMEOUT, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

CTRL_C, CTRL_D = b"\x03", b"\x04"
ESCAPE = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
STUBBORN = "trap '' TERM; echo $SHELLRUNNER_JOB_ID; sleep 60"


async def begun(screen: Any) -> int:
    """Return the id of the job, which the command writes first."""
    # A status line that was erased may stand before it: on a busy machine a submission takes a while.
    found = await until(lambda: re.search(rb"(?:^|\x1b\[K)(\d+)\r\n", screen.shown))
    return int(found[1])


@pytest.mark.heavy
async def test_ctrl_c_asks_and_c_cancels(shared: Service, typist: Typist) -> None:
    """The question names the job, `c` cancels it, and the exit code is 130."""
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
async def test_ctrl_c_and_anything_else_leaves_it_running(shared: Service, typist: Typist, answer: Any) -> None:
    """Any other answer, Ctrl-D or a second Ctrl-C exits with 130 and reports how to reach the job; it continues."""
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


async def test_ctrl_c_while_it_is_being_ended_leaves_at_once(shared: Service, typist: Typist) -> None:
    """A second Ctrl-C after cancelling exits at once, although the command ignores SIGTERM."""
    async with typist.at_terminal("run", STUBBORN) as screen:
        number = await begun(screen)
        screen.types(CTRL_C)
        await screen.shows(b"[c/L] ")
        screen.types(b"c\r")
        await until(lambda: cancelling(shared, number))
        screen.types(CTRL_C)
        assert await screen.code() == 130


async def cancelling(shared: Service, number: Any) -> Any:
    """Return whether the job is being cancelled, or is done."""
    status = await shared.status(number)
    return status["cancelling"] or status["done"]


@pytest.mark.heavy
async def test_nothing_is_written_over_the_question(shared: Service, typist: Typist) -> None:
    """While the question is shown, neither output nor the status line is written; the output follows the answer."""
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


async def test_what_is_typed_goes_to_the_command(typist: Typist) -> None:
    """With `--stdin -` each line is sent as it is entered, and Ctrl-D ends the input."""
    async with typist.at_terminal("run", "--stdin", "-", "--", "sed", "-u", "s/^/got /") as screen:
        screen.types(b"one\r")
        await screen.shows(b"got one\r\n")
        screen.types("два\r".encode())
        await screen.shows("got два\r\n".encode())
        screen.types(CTRL_D)
        assert await screen.code() == 0


@pytest.mark.heavy
async def test_ctrl_c_asks_also_while_input_is_typed(typist: Typist) -> None:
    """The answer to the question is not sent to the command."""
    async with typist.at_terminal("run", "--stdin", "-", "sed -u 's/^/got /'") as screen:
        screen.types(b"one\r")
        await screen.shows(b"got one\r\n")
        screen.types(CTRL_C)
        await screen.shows(b"[c/L] ")
        screen.types(b"c\r")
        assert await screen.code() == 130
        assert b"got c" not in screen.shown


@pytest.mark.heavy
async def test_a_long_wait_is_shown_on_one_line_that_is_erased(shared: Service, typist: Typist) -> None:
    """The status line fits the terminal, and is erased when the job starts."""
    await shared.ask("POST", "/api/queues/one/pause")
    try:
        async with typist.at_terminal(
            "run", "--queue", "one", "echo here", columns=23
        ) as screen:  # with room for five digits of the id
            await until(lambda: re.search(rb"\x1b\[2mjob \d+ is queued:", screen.shown))
            await shared.ask("POST", "/api/queues/one/resume")
            assert await screen.code() == 0
            lines = re.findall(rb"\r\x1b\[K\x1b\[2m([^\x1b]*)", screen.shown)
            assert max(map(len, lines)) < 23
            assert screen.shown.endswith(b"\r\x1b[Khere\r\n")
    finally:
        await shared.ask("POST", "/api/queues/one/resume")


@pytest.mark.heavy
async def test_a_dumb_terminal_gets_no_escapes(shared: Service, typist: Typist) -> None:
    """With TERM=dumb nothing but the output is written."""
    typist.environment["TERM"] = "dumb"
    async with typist.at_terminal("run", "sleep 1.6; echo here") as screen:
        assert await screen.code() == 0
        assert screen.shown == b"here\r\n"


@pytest.mark.heavy
async def test_a_command_s_unfinished_line_is_left_alone(typist: Typist) -> None:
    """The status line does not overwrite a command's prompt, and a message starts on a new line."""
    async with typist.at_terminal("run", "printf 'name? '; sleep 1.6; kill -9 $$") as screen:
        assert await screen.code() == 137
        assert re.fullmatch(rb"name\? \r\njob \d+ was terminated by SIGKILL\r\n", screen.shown)


@pytest.mark.parametrize(
    ("terminal", "variable", "coloured"), [(True, "", True), (True, "1", False), (False, "", False)]
)
async def test_colours_only_on_a_terminal_and_not_with_no_color(
    shared: Service, typist: Typist, terminal: bool, variable: str, coloured: bool
) -> None:
    """States are coloured on a terminal only, and not with NO_COLOR."""
    await shared.run("exit 3")
    typist.environment["NO_COLOR"] = variable
    async with typist.at_terminal("ps", "-a", pipe="" if terminal else "| cat") as screen:
        assert await screen.code() == 0
        assert b"exited 3" in ESCAPE.sub(b"", screen.shown)
        assert (b"\x1b[31m" in screen.shown) is coloured
        if not terminal:
            assert b"\x1b" not in screen.shown


@pytest.mark.parametrize("columns", [200, 40, 1, 0])
async def test_a_table_fits_any_width(shared: Service, typist: Typist, columns: int) -> None:
    """No line is wider than the terminal; a width of 0 means unknown, and counts as 80."""
    await shared.submit("true; : " + "слово " * 50, labels={"name": "имя"})
    # Without the message that there are more jobs, which is not cut.
    async with typist.at_terminal("ps", "-a", "-n", "20", pipe="2>/dev/null", columns=columns) as screen:
        assert await screen.code() == 0
        lines = ESCAPE.sub(b"", screen.shown).decode().split("\r\n")
        assert max(map(len, lines)) <= (columns or 80)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("size", "variables", "forbidden"),
    [((24, 80), {}, rb"$^"), ((12, 50), {"TERM": "dumb"}, rb"\x1b"), ((20, 200), {"NO_COLOR": "1"}, rb"\x1b\[3\dm")],
)
async def test_verbs_fit_each_terminal(
    shared: Service, typist: Typist, size: tuple[int, int], variables: dict[str, str], forbidden: bytes
) -> None:
    """What verbs print fits 80x24, 50x12 and 200x20; on a dumb terminal without escapes, with NO_COLOR uncoloured."""
    command, (rows, columns) = ": " + "word " * 50, size
    done = (await shared.run(command))["job_id"]
    number = await shared.submit(f"sleep 60; {command}", name="fits", labels={"team": "web"})
    typist.environment |= variables
    for verb in (("queues",), ("top", "--once"), ("wait", "-o", "table", done), ("--help",)):
        async with typist.at_terminal(*verb, rows=rows, columns=columns) as screen:
            assert await screen.code() == 0
            assert not re.search(forbidden, screen.shown), screen.shown
            lines = ESCAPE.sub(b"", screen.shown).decode().split("\r\n")
            assert max(map(len, lines)) <= columns, lines
            assert len(lines) > 1
    await shared.ask("POST", f"/api/jobs/{number}/cancel")


@pytest.mark.heavy
async def test_live_tables_fit_a_small_terminal(typist: Typist) -> None:
    """`top` and `ps --watch` draw no line that is wider than the terminal, and fewer lines than it has."""
    for verb in (("top", "--interval", "0.2"), ("ps", "--watch")):
        async with typist.at_terminal(*verb, rows=5, columns=20) as screen:
            await screen.shows(b"\x1b[J")
            frame = screen.shown.partition(b"\x1b[J")[0].rpartition(b"\x1b[H")[2]
            lines = ESCAPE.sub(b"", frame).decode().split("\r\n")
            assert max(map(len, lines)) <= 20, lines
            assert len(lines) <= 5
            screen.types(CTRL_C)
            assert await screen.code() == 0


async def test_elsewhere_than_on_a_terminal_nothing_is_cut(shared: Service, typist: Typist) -> None:
    """Without a terminal a command is printed in full, on one line, with control characters escaped."""
    command = "true '" + "x" * 500 + "\n\x1b[2J\u202e'"
    await shared.submit(command, labels={"name": "long"})
    shown = (await typist.run("ps", "-a", "--filter", "label=name:long")).out.decode()
    assert shown.splitlines()[1].endswith("x" * 500 + "\\n\\u001b[2J\\u202e'")


@pytest.mark.parametrize(("verb", "number"), [(("ps", "--watch"), signal.SIGQUIT), (("top",), signal.SIGTERM)])
async def test_a_signal_leaves_the_screen_as_it_was(typist: Typist, verb: tuple[str], number: signal.Signals) -> None:
    """Neither Ctrl-\\ nor SIGTERM leaves the alternate screen, and no cursor, to the shell."""
    async with typist.at_terminal(*verb) as screen:
        await screen.shows(b"\x1b[H", after=b"\x1b[?25l\x1b[H")
        screen.signal(number)
        assert await screen.code() == 128 + number
        assert screen.shown.endswith(b"\x1b[?25h\x1b[?1049l")


@pytest.mark.heavy
async def test_watch_shows_changes_and_leaves_the_screen_as_it_was(typist: Typist) -> None:
    """A job appears when it starts and disappears when it is done; Ctrl-C exits with 0 and restores the screen."""
    async with typist.at_terminal("ps", "--watch") as screen:
        await screen.shows(b"\x1b[?1049h")
        await screen.shows(b"COMMAND")
        async with typist.begin(
            "run", "--stdin", "-", "cat >/dev/null # seen", stdin=asyncio.subprocess.PIPE
        ) as process:
            await screen.shows(b"# seen")
            process.stdin.close()
            await asyncio.wait_for(process.wait(), WAIT_TIMEOUT)
        await until(lambda: b"# seen" not in screen.shown.rpartition(b"\x1b[H")[2])
        screen.types(CTRL_C)
        assert await screen.code() == 0
        assert screen.shown.endswith(b"\x1b[?25h\x1b[?1049l")


@pytest.mark.heavy
async def test_watch_shows_what_runs_and_counts_the_rest(shared: Service, typist: Typist) -> None:
    """Of more jobs than lines, the one that runs and those that are next are shown, and the others counted."""
    runs = await shared.submit("sleep 60 # runs", queue="one")
    await until(lambda: runs_now(shared, runs))
    body = {"jobs": [{"command": f"true # {n}", "queue": "one", "priority": n % 3} for n in range(130)]}
    _, _, answer = await shared.ask("POST", "/api/jobs/batch", json=body)
    async with typist.at_terminal("ps", "--watch", rows=12) as screen:
        await screen.shows(b"1 running, 130 queued, 0 waiting")
        await screen.shows(b"and 123 more")
        lines = screen.shown.rpartition(b"\x1b[H")[2].splitlines()
        assert b"# runs" in lines[2]
        assert [b"true # 2" in lines[3], b"true # 5" in lines[4]] == [True, True]
        screen.types(CTRL_C)
        assert await screen.code() == 0
    listed = await typist.run("ps", "-n", "1", "--columns", "priority,command,id")
    assert listed.out.decode().split() == ["PRIORITY", "COMMAND", "ID", "0", "sleep", "60", "#", "runs", str(runs)]
    assert listed.err == "more than 1 job matches: use -n 0 to list all\n"
    assert (await typist.run("ps", "--columns", "size")).code == 2
    done = await typist.run("cancel", "-qy", "--filter", "queue=one")
    assert done == (0, b"", "")
    assert len(answer["jobs"]) == 130
    await shared.result(runs)


@pytest.mark.heavy
async def test_a_pipe_that_closes_ends_it_quietly(shared: Service, typist: Typist) -> None:
    """`logs | head -1` prints one line and no error, and exits with the code of SIGPIPE."""
    number = (await shared.run("seq 300000"))["job_id"]
    async with typist.at_terminal("logs", number, pipe='| head -1; echo "${PIPESTATUS[0]}"') as screen:
        assert await screen.code() == 0
        assert screen.shown == b"1\r\n141\r\n"


@pytest.mark.heavy
async def test_a_terminal_that_hangs_up_ends_it(shared: Service, typist: Typist) -> None:
    """When the terminal is closed the CLI exits, and the job continues."""
    typist.environment["PYTHONWARNINGS"] = "error"
    async with typist.at_terminal("run", "echo $SHELLRUNNER_JOB_ID; while echo tick; do sleep 0.02; done") as screen:
        number = await begun(screen)
        screen.hang_up()
        await screen.code()
    assert (await shared.status(number))["state"] == "running"
    await shared.ask("POST", f"/api/jobs/{number}/cancel")


@pytest.mark.heavy
async def test_prune_asks_and_takes_no_for_an_answer(shared: Service, typist: Typist) -> None:
    """The question has the number of jobs, and only `y` deletes them."""
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


@pytest.mark.heavy
async def test_the_standard_descriptors_are_never_made_nonblocking(typist: Typist) -> None:
    """After `run`, standard input, output and error of the next process are not O_NONBLOCK."""
    check = "import fcntl, os; print([fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK for fd in range(3)])"
    async with typist.at_terminal("run", "--stdin", "-", "head -1", pipe=f"; python3 -c '{check}'") as screen:
        screen.types(b"line\r")
        assert await screen.code() == 0
        await screen.shows(b"[0, 0, 0]")


@pytest.mark.heavy
async def test_logs_do_not_act_beyond_the_screen(shared: Service, typist: Typist) -> None:
    """On a terminal titles, clipboard and questions are removed, colours stay; in a pipe and with --raw all does."""
    acts = "\\033]52;c;AAAA\\007\\033]0;title\\007\\033[6n\\302\\2336n"
    done = await typist.run("submit", "--", f"printf '\\033[31mred{acts}\\033[?25lend\\n'; printf 'e{acts}rr\\n' >&2")
    number = done.out.decode().strip()
    await typist.run("wait", "-q", number)
    for options in ((), ("--stdout",), ("-t",), ("-n", "5"), ("-f",)):
        async with typist.at_terminal("logs", *options, number) as screen:
            assert await screen.code() == 0
            assert b"\x1b[31mred\x1b[?25lend\r\n" in screen.shown
            assert not re.search(rb"\x1b\]|\x1b\[6n|\x9b", screen.shown)
            assert screen.shown.endswith(b"\x1b[0m\x1b[?25h")
    async with typist.at_terminal("logs", "--raw", number) as screen:
        assert await screen.code() == 0
        assert screen.shown.count(b"\x1b]52;c;AAAA\x07") == 2
    piped = await typist.run("logs", number)
    assert piped.out.count(b"\x1b]52;c;AAAA\x07\x1b]0;title\x07\x1b[6n\xc2\x9b6n") == 1
    assert "e\x1b]52;c;AAAA\x07" in piped.err


@pytest.mark.heavy
async def test_logs_cut_lines_that_a_narrower_terminal_would_tear(shared: Service, typist: Typist) -> None:
    """A progress bar of a wider terminal stays on one line, unless --raw, and the terminal wraps lines afterwards."""
    bar = "printf '%60s|\\r%60s|' 1 2"
    number = (await shared.run(bar, tty={"rows": 24, "columns": 70}))["job_id"]
    for options, columns, is_cut in (((), 40, True), (("-f",), 40, True), (("--raw",), 40, False), ((), 70, False)):
        async with typist.at_terminal("logs", *options, number, columns=columns) as screen:
            assert await screen.code() == 0
            before, _, after = screen.shown.partition(b"|\r")
            assert (b"\x1b[?7l" in before, b"\x1b[?7h" in after) == (is_cut, is_cut), screen.shown
            assert (b"has 70 columns: lines are cut here, --raw wraps them\r\n" in before) is is_cut


@pytest.mark.heavy
async def test_json_on_a_terminal_shows_what_is_hidden(typist: Typist) -> None:
    """`show --json` and `ps --json` have escapes on a terminal, and are exact in a pipe."""
    command = "true # \u202e\u200b\u009b"
    number = (await typist.run("submit", "--", command)).out.decode().strip()
    await typist.run("wait", "-q", number)
    for verb in (("show", "--json", number), ("ps", "-a", "--json")):
        async with typist.at_terminal(*verb) as screen:
            assert await screen.code() == 0
            assert b"true # \\u202e\\u200b\\u009b" in screen.shown
        assert command.encode() in (await typist.run(*verb)).out
