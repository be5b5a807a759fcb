"""Which jobs a verb is about, and the forms in which it prints them."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shellrunner.cli.ui.output_format import fill, unescape
from shellrunner.errors import ShellrunnerError
from tests.cli.test_verbs import cancelled, ended, runs_now
from tests.support.command_line import Typist, finished
from tests.support.service import Service
from tests.support.waiting import WAIT_TIMEOUT, until

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.heavy
async def test_a_range_names_the_jobs_that_exist(shared: Service, typist: Typist) -> None:
    """Of a range, jobs that do not exist are left out; an id that does not exist is an error beside it."""
    first, gone, last = await ended(shared, "exit 4", "true", "true")
    await shared.ask("DELETE", f"/api/jobs/{gone}")
    done = await typist.run("wait", f"{first}-{last}")
    assert (done.code, done.err) == (4, f"job {first} exited with 4\n")
    shown = await typist.run("show", "-o", "template={job.job_id}", f"{first}-{last},{first}", last)
    assert shown.out.split() == [str(each).encode() for each in (first, last, first, last)]
    done = await typist.run("rm", f"{gone}-{gone}")
    assert (done.code, done.err) == (1, "there is no job in this range\n")


@pytest.mark.heavy
async def test_the_last_job_is_meant_where_none_is_named(shared: Service, typist: Typist) -> None:
    """`show`, `logs` and `wait` are about the last job, `cancel` and `signal` about the last one that runs."""
    runs = await shared.submit("sleep 60")
    await until(lambda: runs_now(shared, runs))
    (last,) = await ended(shared, "echo last; exit 3")
    assert (await typist.run("logs")).out == b"last\n"
    assert (await typist.run("logs", "last")).out == b"last\n"
    assert (await typist.run("wait")).code == 3
    assert json.loads((await typist.run("show", "--json")).out)["job"]["job_id"] == last
    after = (await typist.run("submit", "--after", "last", "true")).out.decode()
    assert (await shared.result(int(after)))["ending"] == "skipped"
    assert (await typist.run("signal", "CONT")).err == f"job {runs} was sent SIGCONT\n"
    assert (await typist.run("cancel")).err == f"job {runs} is being cancelled\n"
    await shared.result(runs)
    assert (await typist.run("rm")).code == 2


@pytest.mark.heavy
async def test_verbs_take_filters(shared: Service, typist: Typist) -> None:
    """`cancel`, `wait` and `logs` are about all jobs that match; none is no error, and ids beside filters are one."""
    match = ("--filter", "label=test:bulk")
    jobs = [await shared.submit("echo begun; sleep 60", labels={"test": "bulk"}, queue="one") for _ in range(3)]
    assert (await typist.run("cancel", "--all", str(jobs[0]))).code == 2
    asked = await typist.run("cancel", *match, start_new_session=True)
    assert (asked.code, asked.err) == (
        1, "cannot ask for confirmation without a terminal: use --yes to cancel 3 jobs\n",
    )  # fmt: skip
    match = ("--filter", "label=test=bulk")  # as --label has it
    assert await typist.run("cancel", "--yes", *match) == (0, b"", "3 jobs are being cancelled\n")
    for job in jobs:
        assert (await shared.result(job))["ending"] == "cancelled"
    assert await typist.run("wait", *match) == (0, b"", "no jobs match\n")
    printed = (await typist.run("logs", *match)).out.decode()
    assert [f"==> job {job}: echo begun; sleep 60 <==" in printed for job in jobs] == [True] * 3


@pytest.mark.heavy
async def test_wait_any_returns_with_the_first(shared: Service, typist: Typist) -> None:
    """`wait --any` prints the id of the job that is done first and exits with its code, now or when it ends."""
    go = typist.home / "go"
    slow = await shared.submit("sleep 60")
    quick = await shared.submit(f"until [ -e {go} ]; do sleep 0.02; done; exit 7")
    async with typist.begin("wait", "--any", slow, quick) as process:
        await until(lambda: runs_now(shared, quick))
        go.touch()
        assert await finished(process) == (7, f"{quick}\n".encode(), "")
    assert (await typist.run("wait", "--any", slow, quick)).out == f"{quick}\n".encode()
    await cancelled(shared, slow)


@pytest.mark.heavy
async def test_logs_of_one_attempt(shared: Service, typist: Typist) -> None:
    """`logs --attempt N` prints what this attempt wrote, of both streams or of one."""
    command = "n=$(cat n 2>/dev/null || echo 0); echo $((n + 1)) > n; echo out $n; echo err $n >&2; exit $((n < 2))"
    number = await shared.submit(command, cwd=str(typist.home), retries={"max": 5})
    await shared.result(number)
    for attempt in (1, 2, 3):
        done = await typist.run("logs", "--attempt", attempt, number)
        assert done == (0, f"out {attempt - 1}\n".encode(), f"err {attempt - 1}\n")
        assert (
            await typist.run("logs", "--attempt", attempt, "--stdout", number)
        ).out == f"out {attempt - 1}\n".encode()
    assert (await typist.run("logs", "--attempt", "4", number)).code == 1
    assert (await typist.run("logs", "--attempt", "1", "-f", number)).code == 2


@pytest.mark.heavy
async def test_documents_are_printed_as_asked(shared: Service, typist: Typist) -> None:
    """-o json is one document, jsonl one a line, table that of ps, template what the user writes, escaped."""
    jobs = await ended(shared, "exit 1", "exit 2")
    parsed = json.loads((await typist.run("wait", "-o", "json", *jobs)).out)
    assert [each["exit_code"] for each in parsed] == [1, 2]
    lines = (await typist.run("show", "-o", "jsonl", *jobs)).out.splitlines()
    assert [json.loads(line)["job"]["job_id"] for line in lines] == jobs
    tables = [typist.run(verb, "-o", "table", *jobs) for verb in ("wait", "show")]
    tables += [typist.run("run", "-o", "table", "exit 2"), typist.run("batch", "-o", "table", "-", given=b"exit 2")]
    for table in await asyncio.gather(*tables):
        heading, *rows = table.out.decode().splitlines()
        # A job that was accepted just now is queued on a cluster, until another host claims it.
        assert heading.split() in (columns := ["ID", "STATE", "CREATED", "TIME", "COMMAND"], [*columns, "REASON"])
        assert all("exit 1" in row or "exit 2" in row for row in rows)
        assert len(rows) in {1, len(jobs)}
    template = r"template={job_id}\t{labels.a.b}\t{{x}}"
    submitted = await typist.run("submit", "-o", template, "--label", "a.b=c\x1b[31m", "true")
    assert submitted.out.endswith(b"\tc\x1b[31m\t{x}\n")
    async with typist.at_terminal("submit", "-o", template, "--label", "a.b=c\x1b[31m", "true") as screen:
        assert await screen.code() == 0
        assert b"\\u001b[31m" in screen.shown
    wrong = await typist.run("submit", "-o", "template={job_ID}", "true")
    assert (wrong.code, wrong.err.startswith("there is no key 'job_ID' for the template: job_id, ")) == (
        125,
        True,
    )
    assert (await typist.run("show", "-o", "yaml", jobs[0])).code == 2
    assert (await typist.run("show", "-o", "template={", jobs[0])).code == 2


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@pytest.mark.heavy
@settings(max_examples=50, deadline=None)
@given(st.text(max_size=20), JSON_VALUES)
async def test_a_template_takes_any_value(text: str, value: Any) -> None:
    """Text in braces of its own is itself, and any value of a key has a text; missing members are empty."""
    quoted = text.replace("\\", r"\\").replace("{", "{{").replace("}", "}}")
    assert fill(unescape(quoted), {}) == text
    shown = fill("{a}", {"a": value})
    assert shown == ("" if value is None else shown)
    assert fill("{a.missing-member}", {"a": {}}) == ""
    with pytest.raises(ShellrunnerError):
        fill("{b}", {"a": value})


@pytest.mark.heavy
async def test_interrupted_wait_any_is_quiet(typist: Typist, shared: Service) -> None:
    """Ctrl-C ends `wait --any` with 130."""
    number = await shared.submit("sleep 60")
    async with typist.at_terminal("wait", "--any", number) as screen:
        await screen.shows(b"waiting for job")
        screen.types(b"\x03")
        assert await asyncio.wait_for(screen.code(), WAIT_TIMEOUT) == 130
    await cancelled(shared, number)
