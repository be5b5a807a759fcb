"""The verbs that submit several jobs and change jobs and queues: `batch`, `again`, `edit`, `hold`, `send`."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shellrunner.cli.commands.submission.batch import chunked, parse_jobs
from shellrunner.cli.ui.editor import merge_patch
from tests.cli.test_verbs import cancelled, ended, runs_now
from tests.support.command_line import Typist
from tests.support.service import Service
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def job_of(shared: Service, number: Any) -> Any:
    """Return a job as the API shows it."""
    return (await shared.get(f"/api/jobs/{number}"))[2]


@pytest.mark.heavy
async def test_batch_submits_lines_and_json(shared: Service, typist: Typist) -> None:
    """Each line is a command or a JSON object; options are for all, and the ids come in the same order."""
    lines = '# comment\necho one\n\n  echo two  \n{"argv": ["echo", "three"], "priority": 7, "name": "third"}\n'
    done = await typist.run("batch", "--priority", "3", "--label", "test=batch", "-", given=lines.encode())
    assert (done.code, done.err) == (0, "")
    jobs = [await job_of(shared, number) for number in done.out.decode().split()]
    assert [(job["command"], job["priority"], job["name"]) for job in jobs] == [
        ("echo one", 3, None), ("echo two", 3, None), ("echo three", 7, "third"),
    ]  # fmt: skip
    assert {job["cwd"] for job in jobs} == {str(Path.cwd())}
    (typist.home / "jobs").write_text('true\n{"command": "true", "timeout": -1}\n')
    wrong = await typist.run("batch", typist.home / "jobs")
    assert (wrong.code, wrong.out) == (125, b"")
    assert wrong.err.startswith("line 2: --timeout: ")
    (typist.home / "jobs").write_text('true\n{"command": }\n')
    assert "line 2 is not valid JSON" in (await typist.run("batch", typist.home / "jobs")).err
    keyed = [await typist.run("batch", "--key", "one-batch", "--clean", "-", given=b"true\ntrue\n") for _ in "12"]
    assert keyed[0].out == keyed[1].out != b""


@pytest.mark.heavy
@given(st.lists(st.integers(0, 400_000), max_size=60), st.integers(0, 2500))
async def test_batches_are_cut_by_number_and_size(sizes: list[int], more: int) -> None:
    """Each part has at most 1,000 jobs and fits into a request; together they are all jobs in order."""
    jobs: list[Any] = [(n, {"command": "x" * size}) for n, size in enumerate([*sizes, *[1] * more])]
    chunks = list(chunked(jobs))
    assert [job for chunk in chunks for job in chunk] == jobs
    assert all(0 < len(chunk) <= 1000 for chunk in chunks)
    assert all(len(json.dumps({"jobs": [job for _, job in chunk]})) < 8 << 20 for chunk in chunks)


@pytest.mark.heavy
@given(st.text(alphabet="ab{# \t", max_size=6))
async def test_a_line_is_a_command_unless_it_is_empty_a_comment_or_an_object(line: str) -> None:
    """Blanks around a command do not count."""
    text = line.strip(" \t")
    if text.startswith("{"):
        with pytest.raises(ValueError, match="line 1"):
            list(parse_jobs([line], {}))
        return
    expected = [] if not text or text.startswith("#") else [(1, {"command": text})]
    assert list(parse_jobs([line], {})) == expected


@pytest.mark.heavy
async def test_again_is_the_same_job_with_what_is_given(shared: Service, typist: Typist) -> None:
    """Variables of a job from here have their values of here; others must be given, or be left out."""
    typist.environment["COLOUR"] = "green"
    first = (await typist.run("submit", "--name", "twice", "-e", "COLOUR", 'echo "$COLOUR"')).out.decode().strip()
    await shared.result(int(first))
    typist.environment["COLOUR"] = "blue"
    done = await typist.run("again", "--priority", "9", first)
    assert (done.code, done.err) == (0, "")
    second = int(done.out)
    assert (await shared.result(second))["stdout"] == "blue\n"
    job = await job_of(shared, second)
    assert (job["again_of"], job["name"], job["priority"]) == (int(first), "twice", 9)
    secret = await shared.submit('echo "$SECRET"', env={"SECRET": "x"}, stdin="text")
    await shared.result(secret)
    refused = await typist.run("again", secret)
    assert refused.code == 125
    assert "--env SECRET: " in refused.err
    assert "--stdin: " in refused.err
    assert (await typist.run("again", "-e", "SECRET=y", "--stdin", "/dev/null", secret)).code == 0
    clean = await typist.run("again", "--clean", "--command", "echo plain", secret)
    assert (await shared.result(int(clean.out)))["stdout"] == "plain\n"


@pytest.mark.heavy
async def test_again_takes_all_that_failed(shared: Service, typist: Typist) -> None:
    """--failed is about exits with another code, signals and timeouts, and not about what was cancelled."""
    labels = {"test": "failed"}
    jobs = await ended(shared, "exit 3", "true", "kill -9 $$", labels=labels)
    stopped = await shared.submit("sleep 60", labels=labels)
    await cancelled(shared, stopped)
    filters = ("--filter", "label=test:failed")
    asked = await typist.run("again", "--failed", *filters, start_new_session=True)
    assert (asked.code, asked.err) == (
        1, "cannot ask for confirmation without a terminal: use --yes to submit 2 jobs\n",
    )  # fmt: skip
    done = await typist.run("again", "--failed", "-y", "-o", "template={again_of}", *filters)
    assert done == (0, f"{jobs[0]}\n{jobs[2]}\n".encode(), "")


@pytest.mark.heavy
async def test_many_jobs_are_changed_after_confirmation(shared: Service, typist: Typist) -> None:
    """What was set before is gone, so it is asked for; one job that is named, or an editor, is not."""
    labels = {"test": "many"}
    jobs = [await shared.submit("true", held=True, labels=labels) for _ in range(2)]
    filters = ("--filter", "label=test:many")
    asked = await typist.run("edit", "--priority", "3", *filters, start_new_session=True)
    assert (asked.code, asked.err) == (
        1, "cannot ask for confirmation without a terminal: use --yes to change 2 jobs\n",
    )  # fmt: skip
    assert [(await job_of(shared, str(job)))["priority"] for job in jobs] == [0, 0]
    done = await typist.run("edit", "--priority", "3", "-y", *filters, start_new_session=True)
    assert (done.code, done.messages) == (0, "job N was changed: priority\n" * 2)
    one = await typist.run("edit", "--priority", "4", str(jobs[0]), start_new_session=True)
    assert one.code == 0
    for job in jobs:
        assert (await typist.run("cancel", str(job))).code == 0


@pytest.mark.heavy
async def test_hold_edit_and_release(shared: Service, typist: Typist) -> None:
    """A held job waits, can be changed by options and in an editor, and starts once it is released."""
    number = (await typist.run("submit", "--hold", "--label", "a=b", "true")).out.decode().strip()
    assert re_state(await typist.run("ps", "--filter", "label=a:b")) == "held"
    changed = await typist.run("edit", "--priority", "5", "--label", "c=d", "--unlabel", "a", "--delay", "1h", number)
    assert (changed.code, changed.messages) == (0, "job N was changed: priority, labels, start_at\n")
    job = await job_of(shared, number)
    assert (job["priority"], job["labels"]) == (5, {"c": "d"})
    assert (await typist.run("edit", "--no", "at", number)).code == 0
    script = typist.home / "editor"
    script.write_text('#!/bin/sh\nsed -i \'s/"priority": 5/"priority": -7/; /"c": "d"/d\' "$1"\n')
    script.chmod(0o755)
    typist.environment["EDITOR"] = str(script)
    edited = await typist.run("edit", number)
    assert (edited.code, edited.messages) == (0, "job N was changed: priority, labels\n")
    job = await job_of(shared, number)
    assert (job["priority"], job["labels"], job["start_at"]) == (-7, {}, None)
    assert (await typist.run("edit", number)).err == "nothing was changed\n"
    wrong = await typist.run("edit", "--queue", "nowhere", number)
    assert (wrong.code, wrong.err.partition(":")[0]) == (1, "--queue")
    assert (await typist.run("release", number)).messages == "job N is released\n"
    assert (await shared.result(int(number)))["exit_code"] == 0
    assert (await typist.run("hold", number)).code == 1


def re_state(done: Any) -> str:
    """Return the state of the only job in a table."""
    return str(done.out.decode().splitlines()[1].split()[1])


JSON_OBJECTS = st.dictionaries(
    st.text(max_size=2),
    st.recursive(st.integers() | st.text(), lambda inner: st.dictionaries(st.text(max_size=2), inner), max_leaves=5),
    max_size=4,
)


def apply(target: Any, patch: Any) -> Any:
    """Apply a merge patch, as RFC 7396 defines it."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = apply(result.get(key), value)
    return result


@pytest.mark.heavy
@given(JSON_OBJECTS, JSON_OBJECTS)
async def test_a_merge_patch_makes_one_object_of_another(before: Any, after: Any) -> None:
    """What was edited is what the service will have, and nothing is sent of what was not touched."""
    patch = merge_patch(before, after)
    assert apply(before, patch) == after
    assert merge_patch(after, after) == {}


@pytest.mark.heavy
async def test_pause_resume_and_send(shared: Service, typist: Typist) -> None:
    """A paused command does nothing until it is resumed, and gets the lines that are sent to it."""
    submitted = await typist.run("submit", "-i", 'while read line; do echo "got $line"; done; echo end')
    number = int(submitted.out)
    await until(lambda: runs_now(shared, number))
    assert (await typist.run("pause", number)).messages == "job N is paused\n"
    assert (await shared.status(number))["paused"] is True
    assert (await typist.run("resume", number)).messages == "job N is resumed\n"
    assert (await typist.run("send", "yes", number)).messages == "job N was sent 4 bytes\n"
    assert (await typist.run("send", "-q", "-", number, given=b"a\nb\n")).err == ""
    assert (await typist.run("send", "-n", "--end", "last", number)).code == 0
    assert (await shared.result(number))["stdout"] == "got yes\ngot a\ngot b\nend\n"
    closed = await typist.run("send", "more", await shared.submit("sleep 9"))
    assert (closed.code, "was submitted without -i or `run -t`" in closed.err) == (1, True)


@pytest.mark.heavy
async def test_top_shows_what_running_jobs_use(shared: Service, typist: Typist) -> None:
    """Each running job has its CPU and memory, largest first, once or kept up to date on a terminal."""
    number = await shared.submit("while :; do :; done", name="busy")
    await until(lambda: runs_now(shared, number))

    async def is_busy() -> bool:
        rows = [json.loads(line) for line in (await typist.run("top", "--json")).out.splitlines()]
        return any(row["job_id"] == number and row["cpu_seconds"] > 0 and row["rss_bytes"] > 0 for row in rows)

    await until(is_busy)
    assert re.search(rf"^ *{number} +\d+% .* busy +while", (await typist.run("top")).out.decode(), re.MULTILINE)
    async with typist.at_terminal("top", "--interval", "0.3", columns=100) as screen:
        await screen.shows(b" running, ")
        await screen.shows(b"  busy  while :; do :; done")
        screen.types(b"\x03")
        assert await screen.code() == 0
        assert screen.shown.endswith(b"\x1b[?25h\x1b[?1049l")
    await cancelled(shared, number)


@pytest.mark.heavy
async def test_queues_are_made_changed_and_removed(shared: Service, typist: Typist) -> None:
    """A limit that is not given stays; what the configuration names cannot be removed."""
    made = await typist.run("queues", "create", "night", "--max-running", "2", "--json")
    assert made.code == 0
    again = await typist.run("queues", "create", "night", "--max-running", "9")
    assert (again.code, again.err) == (
        1, "queue 'night' exists already: use `shellrunner queues set night` to change it\n"
    )  # fmt: skip
    changed = await typist.run("queues", "set", "night", "--max-queued", "50", "-o", "json")
    queue = json.loads(changed.out)
    assert (queue["queue"], queue["limit"], queue["max_queued"]) == ("night", 2, 50)
    freed = json.loads((await typist.run("queues", "set", "night", "--max-running", "none", "--json")).out)
    assert (freed["limit"], freed["max_queued"]) == (None, 50)
    names = (await typist.run("queues", "-o", "template={queue}")).out.decode().split()
    assert {"default", "night", "one"} <= set(names)
    assert (await typist.run("queues", "rm", "night")).err == "queue night was removed\n"
    for name, why in (("one", "is defined in the configuration: remove it there"), ("default", "always exists")):
        assert (await typist.run("queues", "rm", name)).err == f"queue '{name}' {why}\n"
    for wrong in (
        ("set", "one"),
        ("create",),
        ("rm", "one", "--max-running", "1"),
        ("--all",),
        ("pause", "a", "--all"),
    ):
        assert (await typist.run("queues", *wrong)).code == 2
    assert (await typist.run("keepers")).err == "all running commands are known to the history\n"
    await until(partial(_is_gone, shared, "night"))


async def _is_gone(shared: Service, name: str) -> bool:
    _, _, document = await shared.get("/api/queues")
    return name not in {queue["queue"] for queue in document["queues"]}
