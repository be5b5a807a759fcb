"""The verbs other than `run`: their output and their exit codes."""

import asyncio
import json
import os
import random
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from tests.support.command_line import Typist, finished
from tests.support.service import Service
from tests.support.waiting import WAIT_TIMEOUT, until

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.heavy
async def test_submit_prints_the_number_and_goes(shared: Service, typist: Typist) -> None:
    """`submit` prints only the id, before the job ends; --json prints the job."""
    done = await typist.run("submit", "--label", "a=b", "sleep 60")
    assert (done.code, done.err) == (0, "")
    assert (await shared.status(int(done.out)))["done"] is False
    job = json.loads((await typist.run("submit", "--json", "echo", "it's")).out)
    assert job["command"] == """echo 'it'"'"'s'"""
    await cancelled(shared, int(done.out))


async def cancelled(shared: Service, number: Any) -> Any:
    """Cancel a job, and return its result."""
    status, _, _ = await shared.ask("POST", f"/api/jobs/{number}/cancel")
    assert status == 202
    return await shared.result(number)


async def ended(shared: Service, *commands: Any, **spec: Any) -> Any:
    """Run the commands, and return the ids of the jobs once all are done."""
    numbers = [await shared.submit(command, **spec) for command in commands]
    for number in numbers:
        await shared.result(number)
    return numbers


@pytest.mark.heavy
async def test_wait_exits_as_run_would_with_the_first_that_is_not_0(shared: Service, typist: Typist) -> None:
    """The code is the first that is not 0, in the given order of the jobs; endings other than exits are reported."""
    quick, good, killed = await ended(shared, "exit 5", "true", "kill -9 $$")
    slow = await shared.submit("sleep 2; exit 4")
    assert (await typist.run("wait", good, slow, quick)).code == 4
    assert (await typist.run("wait", quick, slow)).code == 5
    assert (await typist.run("wait", good)).code == 0
    done = await typist.run("wait", good, killed, quick)
    assert (done.code, done.messages) == (137, "job N was terminated by SIGKILL\njob N exited with 5\n")
    assert (await typist.run("wait", "-q", killed)).err == ""


async def test_wait_for_a_job_that_is_not_there_is_125_and_costs_no_other(shared: Service, typist: Typist) -> None:
    """A job that does not exist counts as 125, and the other jobs are still waited for."""
    number = await shared.submit("exit 6")
    done = await typist.run("wait", 10**17, number)
    assert (done.code, done.err) == (125, f"there is no job {10**17}\njob {number} exited with 6\n")
    done = await typist.run("wait", "--json", number, 10**17)
    assert done.code == 6
    assert json.loads(done.out)["result_id"] == number


async def test_wait_knows_the_code_of_a_job_whose_result_was_deleted(shared: Service, typist: Typist) -> None:
    """The exit code comes from the status, which outlives the result."""
    (number,) = await ended(shared, "exit 8")
    await shared.ask("DELETE", f"/api/results/{number}")
    assert (await typist.run("wait", number)).code == 8


INTERLEAVED = "for n in 1 2 3; do echo out $n; sleep 0.02; echo err $n >&2; sleep 0.02; done; printf end"


LOGS = {
    (): ("out 1\nout 2\nout 3\nend", "err 1\nerr 2\nerr 3\n"),
    ("--stdout",): ("out 1\nout 2\nout 3\nend", ""),
    ("-f", "--stderr"): ("", "err 1\nerr 2\nerr 3\n"),
    ("-n", "3"): ("out 3\nend", "err 3\n"),
    ("-n", "0", "-f"): ("", ""),
    ("-f", "-n", "99"): ("out 1\nout 2\nout 3\nend", "err 1\nerr 2\nerr 3\n"),
    ("--stdout", "-n", "2"): ("out 3\nend", ""),
    ("--stderr", "-n", "1", "-f"): ("", "err 3\n"),
}


@pytest.mark.heavy
async def test_logs_shows_what_was_written(shared: Service, typist: Typist) -> None:
    """The streams stay separate; -n counts lines as tail(1) does, over both streams as they arrived or over one."""
    (number,) = await ended(shared, INTERLEAVED)
    calls = await asyncio.gather(*(typist.run("logs", *options, number) for options in LOGS))
    shown = {options: (done.out.decode(), done.err) for options, done in zip(LOGS, calls, strict=True)}
    assert shown == LOGS


async def test_logs_with_times_puts_one_before_each_line(shared: Service, typist: Typist) -> None:
    """Each line has exactly one time, even if it arrives in pieces, contains carriage returns or has no newline."""
    (number,) = await ended(shared, r"printf 'a'; sleep 0.2; printf 'b\r50%%\rc\n\nlast'")
    shown = (await typist.run("logs", "-t", number)).out
    assert re.sub(rb"[0-9-]{10}T[0-9:.]{12}Z ", b"T ", shown) == b"T ab\r50%\rc\nT \nT last"


async def test_logs_f_goes_on_until_the_end(shared: Service, typist: Typist) -> None:
    """`logs -f` prints the last lines and then the further output until the job is done."""
    go = typist.home / "go"
    number = await shared.submit(f"seq 5; until [ -e {go} ]; do sleep 0.02; done; seq 6 8")
    await until(lambda: has(shared, number, b"5\n"))
    async with typist.begin("logs", "-f", "-n", "2", number) as process:
        assert await asyncio.wait_for(process.stdout.readexactly(4), WAIT_TIMEOUT) == b"4\n5\n"
        go.touch()
        assert await finished(process) == (0, b"6\n7\n8\n", "")


async def test_logs_of_a_job_that_runs_ends_where_it_is(shared: Service, typist: Typist) -> None:
    """Without -f, `logs` of a running job exits at the current end, even if there is nothing to print."""
    number = await shared.submit("printf 'ab'; sleep 60")
    await until(lambda: has(shared, number, b"ab"))
    assert (await typist.run("logs", "-n", "1", number)).out == b"ab"
    assert (await typist.run("logs", "--tail", "0", number)).out == b""
    await cancelled(shared, number)


async def has(shared: Service, number: Any, text: Any) -> Any:
    """Return whether the output ends with `text`."""
    return (await shared.get(f"/api/statuses/{number}/output"))[2].endswith(text)


@pytest.mark.heavy
async def test_logs_passes_every_byte(typist: Typist) -> None:
    """A megabyte of random bytes is printed unchanged."""
    given = random.Random(1).randbytes(1_000_000)
    (typist.home / "given").write_bytes(given)
    number = (await typist.run("submit", "--stdin", typist.home / "given", "cat")).out.decode().strip()
    assert (await typist.run("logs", "-f", number)).out == given


@pytest.mark.heavy
async def test_ps_lists_what_is_not_done_and_with_a_all(shared: Service, typist: Typist) -> None:
    """`ps` lists unfinished jobs, newest first, and all with -a; as a table, ids or JSON; filters can be combined."""
    filters = ["--filter", "label=test:ps"]
    (done,) = await ended(shared, "exit 3", labels={"test": "ps", "x": "y"})
    (other,) = await ended(shared, "true", labels={"test": "ps"})
    runs = await shared.submit("sleep 60", labels={"test": "ps"})
    await until(lambda: runs_now(shared, runs))

    async def numbers(*options: Any) -> list[Any]:
        return [int(line) for line in (await typist.run("ps", "-q", *filters, *options)).out.split()]

    assert await numbers() == [runs]
    assert await numbers("-a") == [runs, other, done]
    assert await numbers("-a", "--sort", "created") == [done, other, runs]
    assert await numbers("--filter", "exit_code=3") == [done]
    assert await numbers("-a", "--filter", "label=x:y") == [done]
    rows = [json.loads(line) for line in (await typist.run("ps", "-a", "--json", *filters)).out.splitlines()]
    assert [(row["job_id"], row["command"], row["state"], row["exit_code"]) for row in rows] == [
        (runs, "sleep 60", "running", None), (other, "true", "done", 0), (done, "exit 3", "done", 3),
    ]  # fmt: skip
    table = (await typist.run("ps", "-a", *filters)).out.decode()
    lines = [re.split(r"\s{2,}", line.strip()) for line in table.splitlines()]
    assert lines[0] == ["ID", "STATE", "CREATED", "TIME", "COMMAND"]
    assert [(line[0], line[1], line[-1]) for line in lines[1:]] == [
        (str(runs), "running", "sleep 60"), (str(other), "exited 0", "true"), (str(done), "exited 3", "exit 3"),
    ]  # fmt: skip
    await cancelled(shared, runs)


async def runs_now(shared: Service, number: Any) -> bool:
    """Return whether the job is running."""
    return bool((await shared.status(number))["state"] == "running")


@pytest.mark.heavy
async def test_ps_reports_when_there_are_more(shared: Service, typist: Typist) -> None:
    """-n N prints N jobs and reports on standard error that there are more; -n 0 prints all."""
    await ended(shared, "true", "true", "true", labels={"test": "more"})
    filters = ["-a", "-q", "--filter", "label=test:more"]
    done = await typist.run("ps", *filters, "-n", "2")
    assert (len(done.out.split()), done.err) == (2, "more than 2 jobs match: use -n 0 to list all\n")
    for many in ("3", "0"):
        done = await typist.run("ps", *filters, "-n", many)
        assert (len(done.out.split()), done.err) == (3, "")


def plain(shown: bytes) -> str:
    """Return what a terminal shows without its styles."""
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode())


@pytest.mark.heavy
async def test_show_prints_everything_about_a_job(shared: Service, typist: Typist) -> None:
    """`show` prints command, state, label, names of variables and sizes; --json prints the three documents."""
    command = "printf привет; kill -9 $$"
    (number,) = await ended(
        shared, command, labels={"team": "web"}, env={"SECRET": "s3cret"}, stdin="s3cret", timeout=60
    )
    shown = (await typist.run("show", number)).out.decode()
    fields = dict(re.findall(r"^(\w+) +(.*)$", shown, re.MULTILINE))
    assert fields["job"] == str(number)
    assert fields["command"] == "printf привет; kill -9 $$"
    assert (fields["state"], fields["label"], fields["env"]) == ("SIGKILL", "team=web", "SECRET")
    assert (fields["stdin"], fields["stdout"]) == ("text, which is not kept", "12 B")
    assert "s3cret" not in shown
    many = {f"VARIABLE_{index}": "x" for index in range(9)}
    wide = (await shared.run("true", env=many))["job_id"]
    async with typist.at_terminal("show", wide, columns=40) as screen:
        assert await screen.code() == 0
    lines = plain(screen.shown).splitlines()
    assert lines[lines.index("env         VARIABLE_0, VARIABLE_1,") + 1] == "            VARIABLE_2, VARIABLE_3,"
    document = json.loads((await typist.run("show", "--json", number)).out)
    assert (document["job"]["timeout"], document["status"]["signal"], document["result"]["stdout"]) == (
        60, "SIGKILL", "привет",
    )  # fmt: skip


@pytest.mark.heavy
async def test_t2_what_was_left_behind_is_reported(shared: Service, typist: Typist) -> None:
    """`run`, `wait` and `show` name the processes that a command left behind; nothing of it is in the exit code."""
    done = await typist.run("run", "sleep 61 & sleep 62 & exit 4")
    assert (done.code, done.out) == (4, b"")
    names = {"sleep 61 (pid N)", "sleep 62 (pid N)"}
    begin, _, listed = re.sub(r"pid \d+", "pid N", done.messages).strip().partition("ended: ")
    assert (begin, set(listed.split(", "))) == ("job N: 2 processes that it left behind were ", names)
    (number,) = await ended(shared, "sleep 63 & echo x")
    waited = await typist.run("wait", number)
    assert (waited.code, re.sub(r"pid \d+", "pid N", waited.messages)) == (
        0, "job N: 1 process that it left behind was ended: sleep 63 (pid N)\n",
    )  # fmt: skip
    shown = re.sub(r"pid \d+", "pid N", (await typist.run("show", number)).out.decode())
    assert re.search(r"^leftovers +1 process that it left behind was ended: sleep 63 \(pid N\)$", shown, re.MULTILINE)
    assert (await typist.run("wait", "-q", number)).err == ""


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["USR1", "sigusr1", "10"])
async def test_signal_reaches_the_group_or_the_tree(shared: Service, typist: Typist, name: str) -> None:
    """`signal` sends to the command's group, with --tree to all groups of the job; what cannot be sent is 1."""
    loop = "trap 'echo $SAY' USR1; echo up; while :; do sleep 0.02; done"
    both = 'SAY=in sh -c "$LOOP" & SAY=out setsid sh -c "$LOOP" & trap : USR1; while :; do wait; done'
    number = await shared.submit(both, env={"LOOP": loop})

    async def words() -> list[str]:
        _, _, output = await shared.get(f"/api/statuses/{number}/output?stream=stdout")
        return sorted(output.decode().split())

    written = ["up", "up"]
    for option, expected in (((), ["in"]), (("--tree",), ["in", "out"])):
        await until(partial(_are, words, written), what=f"the output is {written}")
        done = await typist.run("signal", *option, name, number)
        assert (done.code, done.messages) == (0, "job N was sent SIGUSR1\n")
        written = sorted([*written, *expected])
        await until(partial(_are, words, written), what=f"the output is {written}")

    async def known() -> Any:
        return (await shared.status(number))["pid"]

    pid = await until(known)  # in a cluster after a second
    assert re.search(rf"^pid +{pid}$", (await typist.run("show", number)).out.decode(), re.MULTILINE)
    await cancelled(shared, number)
    assert (await typist.run("signal", "TERM", number)).messages == "job N is not running\n"
    assert (await typist.run("signal", "RTMIN+99", number)).code == 1
    assert (await typist.run("signal", "999", number)).code == 2


async def _are(words: Callable[[], Awaitable[list[str]]], expected: list[str]) -> bool:
    return await words() == expected


@pytest.mark.heavy
async def test_what_fails_for_one_job_costs_no_other(shared: Service, typist: Typist) -> None:
    """`cancel`, `rm` and `show` report an error of one job, continue with the next, and exit with 1."""
    runs, (done,) = await shared.submit("sleep 60"), await ended(shared, "true")
    ending = await typist.run("cancel", done, 10**17, runs)
    assert ending.code == 1
    assert ending.err.splitlines()[:2] == [f"job {done} is already done", f"there is no job {10**17}"]
    assert (await shared.result(runs))["ending"] == "cancelled"
    removed = await typist.run("rm", 10**17, runs, done)
    assert removed.code == 1
    assert removed.err.splitlines() == [
        f"there is no job {10**17}", f"deleted job {runs}", f"deleted job {done}",
    ]  # fmt: skip
    assert (await typist.run("show", runs)).messages == "there is no job N\n"
    assert (await typist.run("logs", runs)).messages == "there is no job N\n"


@pytest.mark.heavy
async def test_rm_of_a_job_that_runs_is_refused_with_what_to_do(shared: Service, typist: Typist) -> None:
    """The job stays, and the message names `cancel`."""
    number = await shared.submit("sleep 60")
    done = await typist.run("rm", number)
    assert (done.code, done.messages) == (1, "job N is not done: cancel it first\n")
    assert (await typist.run("cancel", "-q", number)).err == ""


@pytest.mark.heavy
async def test_prune_without_a_terminal_needs_a_yes(shared: Service, typist: Typist) -> None:
    """Without --yes nothing is deleted; --yes deletes the jobs that match the filters, and no other."""
    await ended(shared, "true", "exit 1", labels={"prune": "0"})
    (other,) = await ended(shared, "true", labels={"prune": "1"})
    kept = await typist.run("prune", "--filter", "label=prune:0", start_new_session=True)
    assert (kept.code, kept.err) == (
        1,
        "cannot ask for confirmation without a terminal: use --yes to delete 2 jobs\n",
    )
    removed = await typist.run("prune", "--yes", "--filter", "label=prune:0")
    assert (removed.code, removed.err) == (0, "deleted 2 jobs\n")
    assert (await typist.run("prune", "--filter", "label=prune:0")).err == "no jobs to delete\n"
    assert (await shared.status(other))["done"]


@pytest.mark.heavy
async def test_queues_shows_holds_and_lets_go(shared: Service, typist: Typist) -> None:
    """One queue or all of them can be paused; no job of a paused queue starts."""
    try:
        paused = await typist.run("queues", "pause", "one")
        assert re.search(r"^one +paused +1 +0 ", paused.out.decode(), re.MULTILINE)
        number = await shared.submit("true", queue="one")
        table = (await typist.run("queues")).out.decode()
        assert re.search(r"^one +paused +1 +0 +1 +0 ", table, re.MULTILINE)
        assert re.search(r"^default +open +- ", table, re.MULTILINE)
        document = json.loads((await typist.run("queues", "resume", "one", "--json")).out)
        assert (document["queue"], document["paused"]) == ("one", False)
        assert (await shared.result(number))["exit_code"] == 0
        everything = await typist.run("queues", "pause", "--all")
        assert everything.err == "all queues are paused: use `shellrunner queues resume --all` to resume them\n"
    finally:
        await typist.run("queues", "resume", "one")
        assert (await typist.run("queues", "resume", "--all")).code == 0
    assert (await typist.run("queues", "pause")).code == 2
    assert (await typist.run("queues", "pause", "nowhere")).err == (
        "there is no queue 'nowhere': see `shellrunner queues`\n"
    )


USAGE_ERRORS = {
    ("ps", "--filter", "colour=red"): "--filter colour: unknown filter: expected one of q, name, state, ",
    ("cancel", "--filter", "state=nope"): "--filter state: must be one or more of waiting, queued, running, done",
    ("ps", "-o", "template={}"): "{} in the template is not a key in braces, such as {job_id}",
    ("ps", "-o", "template={job_id!r}"): "{job_id!r} in the template is not a key in braces, such as {job_id}",
    ("ps", "-n", "-1"): "'-1' is not a whole number",
    ("signal", "FOO", "1"): "there is no signal 'FOO': expected a number or a name such as HUP or USR1",
    ("signal", "99", "1"): "there is no signal with the number 99",
    ("again", "--stdin", "x", "-i"): "--interactive cannot be combined with --stdin",
    ("ps", "--filter", "state"): "'state' must be NAME=VALUE",
    ("ps", "--sort", "size"): "--sort: jobs cannot be sorted by 'size'",
    ("ps", "--watch"): "--watch requires a terminal",
    ("ps", "--watch", "--json"): "--watch cannot be combined with --quiet, --json or --output",
    ("queues", "create", "a/b"): "invalid name of a queue 'a/b': expected 1 to 63 letters",
    ("queues", "rm", ".."): "invalid name of a queue '..'",
    ("logs", "9-3"): "the range '9-3' is reversed: write 3-9",
    ("logs", "0"): "'0' is not in the range of ids",
    ("logs", "one"): "'one' is not a valid id",
    ("rm",): "Missing argument",
}


@pytest.mark.heavy
async def test_a_wrong_call_gets_a_message(typist: Typist) -> None:
    """Each wrong call exits with 1, 2 or 125 and a message that names what was typed, without a traceback."""
    calls = await asyncio.gather(*(typist.run(*arguments) for arguments in USAGE_ERRORS))
    for done, words in zip(calls, USAGE_ERRORS.values(), strict=True):
        assert done.code in {1, 2, 125}
        assert done.out == b""
        assert words in done.err
        assert "Traceback" not in done.err


@pytest.mark.heavy
async def test_verbs_and_the_numbers_of_jobs_are_completed(shared: Service, typist: Typist) -> None:
    """bash completes verbs and job ids; without a service, no ids."""
    number = await shared.submit("true")
    await shared.submit(
        "true", labels={"completed": "yes", "evil1": "$(touch x)", "evil2": "a b", "evil3": "*", "evil4": "да"}
    )
    for words, expected in (
        (["sub"], "plain,submit"),
        (["wait", f"1-{str(number)[:1]}"], f"plain,1-{number}"), (["submit", "--queue", "o"], "plain,one"),
        (["submit", "--label", "compl"], "plain,completed=yes"), (["ps", "--filter", "sta"], "plain,state="),
        (["ps", "--filter", "state=done,qu"], "plain,state=done,queued"),
        (["ps", "--columns", "id,re"], "plain,id,reason"),
        (["submit", "--limit", "mem"], "plain,memory="), (["submit", "--retry-on", "lo"], "plain,lost"),
        (["show", "-o", "js"], "plain,jsonl"), (["submit", "--encoding", "koi8-r"], "plain,koi8-r"),
        (["signal", "us"], "plain,USR2"), (["submit", "sle"], "plain,sleep"),
        (["run", "sleep", "x"], "file,x"), (["show", str(number)[:1]], f"plain,{number}"),
    ):  # fmt: skip
        typist.environment |= {
            "_SHELLRUNNER_COMPLETE": "bash_complete", "COMP_LINE": " ".join(["shellrunner", *words]),
            "COMP_WORDBREAKS": "",
        }  # fmt: skip
        assert expected in (await typist.run()).out.decode().splitlines()
    # What others wrote is inserted as it is, and would be run with the rest of the line.
    typist.environment["COMP_LINE"] = "shellrunner submit --label evil"
    assert (await typist.run()).out.decode() == "plain,evil4=да\n"
    typist.environment["SHELLRUNNER_URL"] = "http://127.0.0.1:1"
    assert await typist.run() == (0, b"\n", "")
    for variable in ("_SHELLRUNNER_COMPLETE", "COMP_LINE", "COMP_WORDBREAKS"):
        del typist.environment[variable]
    for shell in ("bash", "zsh", "fish"):
        assert b"_SHELLRUNNER_COMPLETE" in (await typist.run("completion", shell)).out


@pytest.mark.heavy
async def test_logs_from_a_byte_on_resumes(shared: Service, typist: Typist) -> None:
    """`logs --from` skips what one has, of both streams or of one, and goes on to the end with -f."""
    (number,) = await ended(shared, "echo one; echo two; sleep 0.1; echo three >&2")
    for options, out in (
        (("--from", "5"), b"wo\n"),
        (("--from", "5", "-f"), b"wo\n"),
        (("--from", "8", "--stdout"), b""),
        (("--from", "2", "--stdout", "-f"), b"e\ntwo\n"),
    ):
        done = await typist.run("logs", *options, number)
        assert (done.code, done.out) == (0, out), options
    assert (await typist.run("logs", "--from", "1", "--stderr", number)).err == "hree\n"
    for wrong in (("--from", "1", "-n", "1"), ("--from", "1", "--stdout", "-t"), ("--from", "-1")):
        assert (await typist.run("logs", *wrong, number)).code == 2
    assert (await typist.run("logs", "--from", "99", "--stdout", number)).code == 1


@pytest.mark.heavy
async def test_logs_find_prints_the_lines_with_a_text(shared: Service, typist: Typist) -> None:
    """`logs --find` prints each line with the text once, behind its number; without any the exit code is 1."""
    (number,) = await ended(shared, r"printf 'One one\ntwo\nanother \033[1mONE\n'; echo one >&2")
    done = await typist.run("logs", "--find", "ONE", "--stdout", number)
    assert (done.code, done.out) == (0, b"1:One one\n3:another \\u001b[1mONE\n")
    assert (await typist.run("logs", "--find", "ONE", "--match-case", "--stdout", number)).out.startswith(b"3:")
    assert (await typist.run("logs", "--find", "one", "--stderr", number)).out == b"1:one\n"
    done = await typist.run("logs", "--find", "three", number)
    assert (done.code, done.out) == (1, b"")
    for wrong in (
        ("--find", "x", "-f"),
        ("--find", "x", "-n", "1"),
        ("--match-case",),
        ("--find", "x", "--from", "1"),
    ):
        assert (await typist.run("logs", *wrong, number)).code == 2


@pytest.mark.heavy
async def test_logs_from_a_line_on(shared: Service, typist: Typist) -> None:
    """`logs --from-line` begins with that line, of both streams or of one; behind the last line there is nothing."""
    (number,) = await ended(shared, "seq 1 30; sleep 0.1; echo last >&2")
    done = await typist.run("logs", "--from-line", "29", number)
    assert (done.code, done.out, done.err) == (0, b"29\n30\n", "last\n")
    assert (await typist.run("logs", "--from-line", "30", "--stdout", "-f", number)).out == b"30\n"
    assert (await typist.run("logs", "--from-line", "99", "--stdout", number)).out == b""
    for wrong in (("-n", "1"), ("--from", "1"), ("--attempt", "1"), ("--stdout", "-t")):
        assert (await typist.run("logs", "--from-line", "2", *wrong, number)).code == 2


@pytest.mark.heavy
@pytest.mark.sqlite(reason="in a cluster the output of a job that has ended is in the database")
async def test_c6_logs_says_what_is_missing(shared: Service, typist: Typist) -> None:
    """C6: `logs` of an output whose file was cut prints what is there, says what is not, and exits with 1."""
    (number,) = await ended(shared, "seq 100000")
    (path,) = (shared.state_dir / "runs").glob(f"{number}.*out")
    os.truncate(path, 1000)
    whole = b"".join(b"%d\n" % each for each in range(1, 100_001))
    for options in ((), ("-f",), ("--stdout",), ("--stdout", "-f"), ("--stdout", "-f", "--from", "10")):
        done = await typist.run("logs", *options, number)
        there = whole[10 if "--from" in options else 0 : 65_536 + 1000]
        assert (done.code, done.out) == (1, there), options
        assert "of stdout" in done.err
    assert (await typist.run("logs", "--stderr", number)).code == 0


@pytest.mark.heavy
async def test_ps_is_in_the_order_of_starting(shared: Service, typist: Typist) -> None:
    """What runs is first, then what starts next, then what waits; with --all what is done, latest first."""
    labels = {"test": "order"}
    first, second = await ended(shared, "true", "true", labels=labels)
    runs = await shared.submit("sleep 60", queue="one", labels=labels)
    await until(lambda: runs_now(shared, runs))
    queued = [await shared.submit("true", queue="one", labels=labels, priority=n) for n in (0, 5, 0)]
    waits = await shared.submit("true", labels=labels, start_at="2099-12-24T00:00:00Z")
    listed = await typist.run("ps", "-aq", "--filter", "label=test:order")
    expected = [runs, queued[1], queued[0], queued[2], waits, second, first]
    assert [int(line) for line in listed.out.split()] == expected
    shown = (await typist.run("show", waits)).out.decode()
    assert re.search(r"^start_at +2099-12-24 .* \(in \d+ d", shown, re.MULTILINE)
    rows = json.loads((await typist.run("ps", "-o", "json", "-n", "2", "--filter", "label=test:order")).out)
    assert [row["job_id"] for row in rows] == expected[:2]
    for number in (*queued, waits, runs):
        await cancelled(shared, number)


async def test_show_prints_words_and_not_python(shared: Service, typist: Typist) -> None:
    """Retries, limits, durations and a terminal's size are shown as a person writes them."""
    spec = {
        "retries": {"max": 3, "delay": 90, "on": ["exited", "timed_out"]}, "limits": {"memory_bytes": 1 << 30},
        "timeout": 3600, "tty": {"rows": 50, "columns": 132}, "merge_stderr": True,
    }  # fmt: skip
    (number,) = await ended(shared, "true", **spec)
    shown = (await typist.run("show", number)).out.decode()
    fields = {line[:12].rstrip(): line[12:] for line in shown.splitlines()}
    assert fields["retries"] == "at most 3, 1 min 30 s after exited or timed_out"
    assert (fields["limits"], fields["timeout"], fields["tty"]) == ("memory 1.0 GiB", "1 h", "50x132")
    assert fields["merge_stderr"] == "yes"
