"""`shellrunner run`: as if the command ran here."""

import asyncio
import json
import os
import random
import signal
from pathlib import Path

import pytest

from tests.support.command_line import Typist, finished
from tests.support.prefork import pipe_transport
from tests.support.service import Service
from tests.support.waiting import WAIT_TIMEOUT, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

ENDINGS = {
    ("true",): (0, ""),
    ("exit 7",): (7, ""),
    ("exit 255",): (255, ""),
    ("kill -9 $$",): (137, "job N was terminated by SIGKILL\n"),
    ("kill -SEGV $$",): (139, "job N was terminated by SIGSEGV\n"),
    ("kill -37 $$",): (165, "job N was terminated by SIGRTMIN+3\n"),
    ("no-such-program", "x"): (
        126,
        "job N failed to start: cannot start no-such-program: not found along PATH\n",
    ),
    ("yes",): (123, "SIZE of stdout could not be stored\njob N exceeded its output limit and was terminated\n"),
}
CONTINUES = "job N continues: use `shellrunner logs -f N` or `shellrunner cancel N`\n"


@pytest.mark.heavy
async def test_it_exits_as_the_command_did(typist: Typist) -> None:
    """The exit code is the command's, or that of its ending, which standard error then describes."""
    calls = await asyncio.gather(*(typist.run("run", "--", *command) for command in ENDINGS))
    assert {command: (done.code, done.messages) for command, done in zip(ENDINGS, calls, strict=True)} == ENDINGS


@pytest.mark.heavy
async def test_a_timeout_is_124(typist: Typist) -> None:
    """--timeout accepts a duration with a unit, and a command that exceeds it exits with 124."""
    done = await typist.run("run", "--timeout", "300ms", "sleep", "60")
    assert (done.code, done.messages) == (124, "job N exceeded its timeout and was terminated\n")


async def test_what_somebody_else_cancels_is_123(shared: Service, typist: Typist) -> None:
    """A job cancelled from elsewhere exits with 123, even if the command itself exited with 0 because of that."""
    command = "exec 2>/dev/null; trap 'exit 0' TERM; echo $SHELLRUNNER_JOB_ID; while :; do sleep 0.01; done"
    async with typist.begin("run", command) as process:
        number = int(await process.stdout.readline())
        await shared.ask("POST", f"/api/jobs/{number}/cancel")
        done = await finished(process)
    assert (done.code, done.messages) == (123, "job N was cancelled\n")


@pytest.mark.heavy
async def test_each_stream_comes_out_where_it_went_in(typist: Typist) -> None:
    """The two streams stay separate, and every byte value is passed through unchanged."""
    everything = bytes(range(256))
    script = f"import os; os.write(1, bytes(range(256)) * 9); os.write(2, {everything[::-1]!r}); os.write(1, b'end')"
    async with typist.begin("run", "--", "python3", "-c", script) as process:
        out, err = await asyncio.wait_for(process.communicate(), WAIT_TIMEOUT)
    assert (process.returncode, out, err) == (0, everything * 9 + b"end", everything[::-1])


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["echo $((6*7))"], b"42\n"),
        (["--", "echo $((6*7))"], b"42\n"),
        (["echo", "$((6*7))", "a  b", ""], b"$((6*7)) a  b \n"),
        (["printf", "%s ", "-q", "--queue", "привет"], "-q --queue привет ".encode()),
    ],
)
async def test_one_word_is_for_the_shell_and_several_are_run_as_they_are(
    typist: Typist, words: list[str], shown: bytes
) -> None:
    """The CLI does not join, split or expand arguments, and options after the command belong to the command."""
    assert (await typist.run("run", *words)).out == shown


async def test_the_options_of_a_job_get_there(shared: Service, typist: Typist) -> None:
    """The job has the given variables, labels, name, queue and timeout; a relative --cwd is resolved locally."""
    (typist.home / "below").mkdir()
    typist.environment["HERE"] = "here"
    done = await typist.run(
        "run", "--cwd", "below", "-e", "A=b=c", "-e", "HERE", "--label", "team=сеть", "--name", "nightly",
        "--queue", "one", "--timeout", "1m30s", "--",
        'pwd; echo "$A $HERE"; env | grep -c SHELLRUNNER_URL; echo $SHELLRUNNER_JOB_ID',
        cwd=typist.home,
    )  # fmt: skip
    *shown, number = done.out.decode().splitlines()
    assert shown == [f"{typist.home}/below", "b=c here", "0"]
    _, _, job = await shared.get(f"/api/jobs/{number}")
    assert (job["labels"], job["name"]) == ({"team": "сеть"}, "nightly")
    assert {"A", "HERE"} <= set(job["env"])
    assert (job["timeout"], job["queue"]) == (90, "one")


@pytest.mark.heavy
@pytest.mark.parametrize("size", [0, 10, 3_000_000])
@pytest.mark.parametrize("how", ["-", "file"])
async def test_standard_input_gets_there_to_the_byte(typist: Typist, size: int, how: str) -> None:
    """Input from a pipe or a file, of any size and with any bytes, reaches the command unchanged, with its end."""
    given = random.Random(size).randbytes(size)
    (typist.home / "file").write_bytes(given)
    done = await typist.run("run", "--stdin", how, "cat", cwd=typist.home, given=given if how == "-" else None)
    assert (done.code, done.err) == (0, "")
    assert done.out == given


async def test_a_pipe_is_passed_on_as_it_fills(typist: Typist) -> None:
    """Each line reaches the command, and its response comes back, before the input ends."""
    async with typist.begin("run", "--stdin", "-", "cat", stdin=asyncio.subprocess.PIPE) as process:
        for line in (b"one\n", b"two\n"):
            process.stdin.write(line)
            assert await asyncio.wait_for(process.stdout.readline(), WAIT_TIMEOUT) == line
        process.stdin.close()
        assert (await finished(process)).code == 0


async def test_a_command_that_ends_before_its_input_ends_the_run(typist: Typist) -> None:
    """`run` exits when the command does, although its own standard input is still open."""
    async with typist.begin("run", "--stdin", "-", "head -n 1", stdin=asyncio.subprocess.PIPE) as process:
        process.stdin.write(b"one\n")
        assert await asyncio.wait_for(process.stdout.read(), WAIT_TIMEOUT) == b"one\n"
        assert await asyncio.wait_for(process.wait(), WAIT_TIMEOUT) == 0


async def test_json_is_the_result(typist: Typist) -> None:
    """--json prints only the result document, and the exit code is still the command's."""
    done = await typist.run("run", "--json", "echo привет; echo oh >&2; exit 3")
    result = json.loads(done.out)
    assert (result["stdout"], result["stderr"], result["exit_code"]) == ("привет\n", "oh\n", 3)
    assert (done.code, done.err) == (3, "")


@pytest.mark.heavy
async def test_quiet_reports_nothing_that_the_code_shows(typist: Typist) -> None:
    """-q suppresses the message for 128+N, but not for 126."""
    assert (await typist.run("run", "-q", "kill -9 $$")).err == ""
    assert (await typist.run("run", "-q", "no-such-program", "x")).messages.startswith("job N failed to start")


@pytest.mark.heavy
async def test_detached_it_prints_the_number_and_goes(shared: Service, typist: Typist) -> None:
    """`run -d` sends the whole input, prints the id, and does not wait for the end of the job."""
    done = await typist.run("run", "-d", "--stdin", "-", "sleep 0.2; cat", given=b"\xff" * 70_000)
    assert (done.code, done.err) == (0, "")
    assert (await shared.result(int(done.out)))["stdout_bytes"] == 70_000


REFUSED = {
    ("--queue", "nowhere", "true"): "; an admin makes another one with `shellrunner queues create NAME`",
    ("-e", "A", "true"): "'A' is not set in the environment",
    (
        "--timeout",
        "soon",
        "true",
    ): "invalid duration 'soon': expected seconds or units, such as 90, 1.5s,",
    ("--stdin", "/no/such/file", "cat"): "cannot open --stdin /no/such/file: No such file or directory",
    ("--stdin", "/", "cat"): "cannot read --stdin /: Is a directory",
    ("--label", "team", "true"): "'team' must be KEY=VALUE",
    ("--such", "true"): "No such option",
    (): "Missing argument",
    ("--", ""): "must not be empty",
    ("echo", os.fsdecode(b"\xff")): "must be valid UTF-8",
}


@pytest.mark.heavy
async def test_what_is_refused_is_125_with_the_reason(typist: Typist) -> None:
    """Each invalid call exits with 125 and a message, submits no job, and shows no traceback."""
    before = (await typist.run("ps", "-aq", "-n", "1")).out
    calls = await asyncio.gather(*(typist.run("run", *arguments) for arguments in REFUSED))
    for done, words in zip(calls, REFUSED.values(), strict=True):
        assert (done.code, done.out) == (125, b"")
        assert words in done.err
        assert "Traceback" not in done.err
    assert (await typist.run("ps", "-aq", "-n", "1")).out == before


async def test_nobody_there_is_125_at_once(tmp_path: Path) -> None:
    """The message names the address, its source, and what to check."""
    done = await Typist(tmp_path, SHELLRUNNER_URL="http://127.0.0.1:1").run("run", "true")
    refused = "cannot reach http://127.0.0.1:1: Connection refused"
    assert (done.code, done.err) == (
        125,
        f"{refused}; check that the service runs there (address from SHELLRUNNER_URL)\n",
    )


@pytest.mark.heavy
@pytest.mark.parametrize("keep", [False, True])
async def test_a_reader_that_has_gone_cancels_the_job(shared: Service, typist: Typist, keep: bool) -> None:
    """`run | head -1` exits with the code of SIGPIPE, silently, and its job is cancelled; not with --keep."""
    command = "while echo $SHELLRUNNER_JOB_ID; do sleep 0.01; done"
    async with typist.begin("run", *["--keep"] * keep, command) as process:
        number = int(await process.stdout.readline())
        pipe_transport(process, 1).close()
        assert await asyncio.wait_for(process.wait(), WAIT_TIMEOUT) == 141
        assert (await process.stderr.read()).decode() == CONTINUES.replace("N", str(number)) * keep
    status = await shared.status(number)
    assert (status["state"] == "running" and not status["cancelling"]) is keep
    if keep:
        assert (await typist.run("cancel", number)).code == 0
    assert (await shared.result(number))["ending"] == "cancelled"


@pytest.mark.heavy
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_run_that_is_terminated_says_the_number_of_its_job(
    shared: Service, typist: Typist, number: signal.Signals
) -> None:
    """SIGTERM and SIGHUP exit with 128+N and say how to reach the job, which continues; even if it is quiet."""
    async with typist.begin("run", "-q", "echo $SHELLRUNNER_JOB_ID; sleep 60") as process:
        job = int(await process.stdout.readline())
        process.send_signal(number)
        done = await finished(process)
    assert (done.code, done.messages) == (128 + number, CONTINUES)
    assert (await shared.status(job))["state"] == "running"
    assert (await typist.run("cancel", job)).code == 0


BURST = "for i in 1 2 3; do echo o$i; echo e$i >&2; done"
IN_ORDER = b"o1\ne1\no2\ne2\no3\ne3\n"


@pytest.mark.heavy
async def test_streams_that_lead_to_one_file_keep_their_order(typist: Typist) -> None:
    """Where both streams are one file or pipe here, they are one in the job; --split and --json keep them apart."""
    done = await typist.run("run", BURST, stderr=asyncio.subprocess.STDOUT)
    assert (done.code, done.out) == (0, IN_ORDER)
    split = await typist.run("run", "--split", BURST, stderr=asyncio.subprocess.STDOUT)
    assert sorted(split.out.split()) == sorted(IN_ORDER.split())
    result = json.loads((await typist.run("run", "--json", BURST, stderr=asyncio.subprocess.STDOUT)).out)
    assert (result["stdout_bytes"], result["stderr_bytes"]) == (9, 9)
    apart = await typist.run("run", BURST)
    assert (apart.out, apart.err) == (b"o1\no2\no3\n", "e1\ne2\ne3\n")


@pytest.mark.heavy
async def test_ctrl_c_where_nobody_can_be_asked_leaves_it_running(shared: Service, typist: Typist) -> None:
    """SIGINT without a terminal exits with 130, and the job continues."""
    async with typist.begin("run", "echo $SHELLRUNNER_JOB_ID; sleep 60", start_new_session=True) as process:
        number = int(await process.stdout.readline())
        process.send_signal(signal.SIGINT)
        done = await finished(process)
    assert (done.code, done.messages) == (130, CONTINUES)
    assert (await shared.status(number))["state"] == "running"
    assert (await typist.run("cancel", number)).code == 0


async def test_a_full_disk_under_the_output_is_reported(typist: Typist) -> None:
    """The message says what failed and that the job continues, without a traceback."""
    with open("/dev/full", "wb") as full:
        done = await typist.run("run", "echo much", stdout=full)
    assert done.code == 125
    assert done.messages == f"cannot write to standard output: No space left on device; {CONTINUES}"


async def test_a_file_for_standard_input_keeps_its_byte_order_mark(typist: Typist, tmp_path: Path) -> None:
    """A byte order mark in the file of `--stdin` is input like the rest."""
    (tmp_path / "input").write_bytes(b"\xef\xbb\xbfx")
    assert (await typist.run("run", "--stdin", tmp_path / "input", "od -An -tx1")).out == b" ef bb bf 78\n"


@pytest.mark.heavy
async def test_input_waits_for_a_job_that_is_queued(shared: Service, typist: Typist, tmp_path: Path) -> None:
    """`run` sends it once the job runs, like the first one of a server."""
    blocker = await typist.run("submit", "--queue", "one", f"until [ -e {tmp_path}/go ]; do sleep 0.02; done")
    assert blocker.code == 0
    before = refusals(shared)
    async with typist.begin("run", "--queue", "one", "--stdin", "-", "cat", stdin=asyncio.subprocess.PIPE) as process:
        process.stdin.write(b"typed")
        process.stdin.close()
        await until(lambda: refusals(shared) > before, what="its input is refused")
        assert process.returncode is None
        (tmp_path / "go").touch()
        out, err = await asyncio.wait_for(asyncio.gather(process.stdout.read(), process.stderr.read()), WAIT_TIMEOUT)
        assert (await process.wait(), out, err) == (0, b"typed", b"")


def refusals(service: Service) -> int:
    """Return how many requests were refused with 409."""
    return sum(entry.get("status") == 409 for entry in service.log)
