"""Results over HTTP: text, excerpts, exact bytes and ranges, deletion."""

import pytest

from shellrunner.clock import now_ms
from shellrunner.model import End, Ending, Leftover, Leftovers, Usage
from tests.support.site import Site

ALL = bytes(range(256))
KEYS = {
    *("result_id", "job_id", "command", "created", "started", "completed", "duration", "exit_code", "signal"),
    *("ending", "detail", "stdout", "stderr", "stdout_bytes", "stderr_bytes", "stdout_dropped", "stderr_dropped"),
    *(
        "truncated",
        "attempt",
        "attempts",
        "usage",
        "leftovers",
        "leftovers_count",
        "host",
        "found",
        "name",
        "queue",
        "priority",
        "labels",
    ),
}


async def test_result_keys(site: Site) -> None:
    """A result has exactly the documented keys, and `usage` as it was measured."""
    end = End(Ending.EXITED, now_ms(), 0, started=now_ms(), duration=0.5, usage=Usage(0.1, 0.2, 1 << 20))
    job_id = await site.done(b"out\n", b"err\n", end)
    result = (await site.get(f"/api/results/{job_id}")).json
    assert result.keys() == KEYS
    expected = {
        "stdout": "out\n",
        "stderr": "err\n",
        "stdout_bytes": 4,
        "attempt": 1,
        "attempts": [f"/api/results/{job_id}/attempts/1"],
        "truncated": False,
    }
    assert expected.items() <= result.items()
    assert result["usage"] == {"cpu_user": 0.1, "cpu_system": 0.2, "max_rss_bytes": 1 << 20}


async def test_a_result_has_what_lists_show_of_its_job(site: Site) -> None:
    """Name, queue, priority and labels are the job's, as it was edited before its start, also in lists."""
    job_id = await site.submit(name="nightly", priority=3, labels={"team": "web"})
    merge = {"Content-Type": "application/merge-patch+json"}
    edit = '{"priority": 5, "labels": {"host": "db1"}}'
    assert (await site.ask("PATCH", f"/api/jobs/{job_id}", data=edit, headers=merge)).status == 200
    runner = site.simulated_runner()
    await runner.claim()
    await runner.finish()
    fields = ("name", "queue", "priority", "labels")
    job = (await site.get(f"/api/jobs/{job_id}")).json
    assert [job[field] for field in fields] == ["nightly", "default", 5, {"team": "web", "host": "db1"}]
    expected = {field: job[field] for field in fields}
    assert expected.items() <= (await site.get(f"/api/results/{job_id}")).json.items()
    assert (await site.get(f"/api/results?fields={','.join(fields)}")).json["results"] == [expected]


async def test_leftovers_are_named_in_results_and_counted_in_statuses(site: Site) -> None:
    """What a command left behind is in its result, and counted in its status; null if there was nothing."""
    leftovers = Leftovers((Leftover(7, "sleep 60"), Leftover(8, "tail -f журнал")), 30)
    job_id = await site.done(end=End(Ending.EXITED, now_ms(), 0, leftovers=leftovers))
    result = (await site.get(f"/api/results/{job_id}")).json
    assert result["leftovers"] == [{"pid": 7, "command": "sleep 60"}, {"pid": 8, "command": "tail -f журнал"}]
    assert (result["leftovers_count"], result["detail"]) == (30, None)
    listed = (await site.get("/api/results?fields=leftovers")).json["results"]
    assert listed == [{"leftovers": result["leftovers"]}]
    assert (await site.get(f"/api/statuses/{job_id}")).json["leftovers_count"] == 30
    assert b'"leftovers_count":30' in (await site.get(f"/api/statuses/{job_id}/events")).body
    other = (await site.get(f"/api/results/{await site.done()}")).json
    assert (other["leftovers"], other["leftovers_count"]) == (None, None)
    assert (await site.ask("DELETE", f"/api/results/{job_id}")).status == 204
    assert (await site.get(f"/api/statuses/{job_id}")).json["leftovers_count"] is None


async def test_no_result_yet(site: Site) -> None:
    """The result of a job that is not done is 404 for GET, for DELETE and for its exact bytes."""
    job_id = await site.submit()
    for verb, path in (("GET", ""), ("DELETE", ""), ("GET", "/stdout"), ("GET", "/stderr")):
        answer = await site.ask(verb, f"/api/results/{job_id}{path}")
        assert (answer.status, answer.json["type"]) == (404, "/problems/no-result-yet")


async def test_result_gone(site: Site) -> None:
    """S10: a result can be read any number of times; after it was deleted it is 410, and the job stays."""
    job_id = await site.done(b"x")
    for _ in range(2):
        assert (await site.get(f"/api/results/{job_id}")).json["stdout"] == "x"
    assert (await site.ask("DELETE", f"/api/results/{job_id}")).status == 204
    gone = [f"results/{job_id}", f"results/{job_id}/stdout", f"statuses/{job_id}/events", f"statuses/{job_id}/output"]
    for path in gone:
        assert (await site.get(f"/api/{path}")).status == 410
    assert (await site.ask("DELETE", f"/api/results/{job_id}")).status == 410
    status = await site.get(f"/api/statuses/{job_id}")
    assert (status.status, status.json["done"], status.json["result"]) == (200, True, None)
    assert "Retry-After" not in status.headers
    assert (await site.get(f"/api/jobs/{job_id}")).json["result"] is None
    assert (await site.get("/api/results")).json["results"] == []


async def test_every_byte_round_trips(site: Site) -> None:
    """O7: all 256 byte values are returned exactly by the raw route, and as text with U+FFFD for invalid ones."""
    job_id = await site.done(ALL, b"\x04\x1b[31m\0")
    raw = await site.get(f"/api/results/{job_id}/stdout")
    assert raw.body == ALL
    assert raw.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert raw.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert raw.headers["X-Content-Type-Options"] == "nosniff"
    result = (await site.get(f"/api/results/{job_id}")).json
    assert result["stdout"] == ALL.decode("utf-8", "replace")
    assert result["stderr"] == "\x04\x1b[31m\0"


async def test_charset(site: Site) -> None:
    """Output is decoded with the job's charset, and the raw route names that by its IANA name."""
    job_id = await site.done("привет".encode("cp1251"), encoding="windows-1251")
    assert (await site.get(f"/api/results/{job_id}")).json["stdout"] == "привет"
    raw = await site.get(f"/api/results/{job_id}/stdout")
    assert raw.headers["Content-Type"] == "text/plain; charset=windows-1251"
    assert raw.body == "привет".encode("cp1251")


async def test_long_output_is_cut(site: Site) -> None:
    """Above 1 MiB a result has both ends around a marker and is `truncated`; exactly 1 MiB is complete."""
    whole = ("я" * ((1 << 19) - 1) + "\n\n").encode()
    assert len(whole) == 1 << 20
    job_id = await site.done(whole, whole + b"!")
    answer = await site.get(f"/api/results/{job_id}")
    result = answer.json
    assert result["stdout"] == whole.decode()
    assert result["truncated"] is True
    assert result["stderr_bytes"] == (1 << 20) + 1
    assert "bytes left out" in result["stderr"]
    assert "\ufffd" not in result["stderr"]
    assert result["stderr"].endswith("я\n\n!")
    assert (await site.get(f"/api/results/{job_id}/stderr")).body == whole + b"!"
    listed = (await site.get("/api/results")).json["results"][0]
    assert listed["truncated"] is True
    assert len(listed["stdout"].encode()) < 5000
    assert "\ufffd" not in listed["stdout"]
    assert listed["stdout_bytes"] == 1 << 20


DATA = b"0123456789"


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("asked", "status", "body", "content_range"),
    [
        ("bytes=0-", 206, DATA, "bytes 0-9/10"),
        ("bytes=0-0", 206, b"0", "bytes 0-0/10"),
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-99", 206, DATA, "bytes 0-9/10"),
        ("bytes=00008-" + "9" * 5000, 206, b"89", "bytes 8-9/10"),
        ("bytes=-" + "9" * 5000, 206, DATA, "bytes 0-9/10"),
        ("bytes=" + "9" * 5000 + "-", 416, None, "bytes */10"),
        ("bytes=99999999999999999999-100000000000000000000", 416, None, "bytes */10"),
        ("BYTES=9-9", 206, b"9", "bytes 9-9/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=-0", 416, None, "bytes */10"),
        ("bytes=4-2", 200, DATA, None),
        ("bytes=-", 200, DATA, None),
        ("bytes=a-b", 200, DATA, None),
        ("bytes=0-1,3-4", 200, DATA, None),
        ("lines=0-1", 200, DATA, None),
        ("bytes=٠-١", 200, DATA, None),
    ],
)
async def test_ranges(site: Site, asked: str, status: int, body: bytes | None, content_range: str | None) -> None:
    """A range returns exactly its bytes, one beyond the end is 416, and an invalid one returns everything."""
    job_id = await site.done(DATA)
    answer = await site.get(f"/api/results/{job_id}/stdout", headers={"Range": asked})
    assert answer.status == status
    assert answer.headers.get("Content-Range") == content_range
    if body is None:
        assert answer.json["limit"] == 10
    else:
        assert answer.body == body
        assert answer.headers["Accept-Ranges"] == "bytes"


async def test_conditional_ranges(site: Site) -> None:
    """If-Range with this ETag returns the range and with another everything; If-None-Match returns 304."""
    job_id = await site.done(DATA, DATA)
    path = f"/api/results/{job_id}/stdout"
    tag = (await site.get(path)).headers["ETag"]
    assert not tag.startswith("W/")
    assert tag != (await site.get(f"/api/results/{job_id}/stderr")).headers["ETag"]
    for condition, status in (
        (tag, 206),
        ('"other"', 200),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 200),
        (f"W/{tag}", 200),
    ):
        assert (await site.get(path, headers={"Range": "bytes=1-2", "If-Range": condition})).status == status
    assert (await site.get(path, headers={"If-None-Match": tag})).status == 304
    assert (await site.get(path, headers={"If-Match": '"other"'})).status == 412
    empty = await site.done()
    assert (await site.get(f"/api/results/{empty}/stdout", headers={"Range": "bytes=0-"})).status == 416
    assert (await site.get(f"/api/results/{empty}/stdout")).body == b""


async def test_head_and_download(site: Site) -> None:
    """HEAD has the size and no body, whatever the range; `?download` names a file."""
    job_id = await site.done(DATA)
    path = f"/api/results/{job_id}/stdout"
    head = await site.ask("HEAD", path, headers={"Range": "bytes=1-2"})
    assert (head.status, head.headers["Content-Length"], head.body) == (200, "10", b"")
    named = await site.get(f"{path}?download")
    assert named.headers["Content-Disposition"] == f'attachment; filename="job-{job_id}-stdout.txt"'
    assert "Content-Disposition" not in (await site.get(path)).headers
    assert (await site.get(f"{path}?download=maybe")).status == 400


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", b"one\n!two\nthree\n"),
        ("?stream=stdout", b"one\ntwo\nthree\n"),
        ("?stream=stderr", b"!"),
        ("?tail=1", b"three\n"),
        ("?tail=2", b"!two\nthree\n"),
        ("?tail=2&stream=stdout", b"two\nthree\n"),
        ("?tail=3", b"one\n!two\nthree\n"),
        ("?tail=99", b"one\n!two\nthree\n"),
        ("?tail=0", b""),
        ("?tail=1&stream=stderr", b"!"),
        ("?follow=true&tail=1", b"three\n"),
    ],
)
async def test_output(site: Site, query: str, expected: bytes) -> None:
    """The output of a job is its bytes in arrival order: of both streams or one, all or the last lines."""
    job_id = await site.submit()
    runner = site.simulated_runner()
    await runner.claim()
    runner.write(b"one\n")
    runner.write(stderr=b"!")
    runner.write(b"two\nthree\n")
    await runner.finish()
    answer = await site.get(f"/api/statuses/{job_id}/output{query}")
    assert (answer.status, answer.body) == (200, expected)
    assert answer.headers["Cache-Control"] == "no-store"


async def test_tail_of_a_long_output(site: Site) -> None:
    """The last lines are found however far back they begin, also in a charset with two-byte units."""
    text = "начало\n" + "x" * 150_000 + "\nконец\n"
    job_id = await site.done(text.encode())
    assert (await site.get(f"/api/statuses/{job_id}/output?tail=2")).body.decode() == text.removeprefix("начало\n")
    wide = await site.done("ਊਊ\nb\nc".encode("utf-16-le"), encoding="utf-16-le")
    assert (await site.get(f"/api/statuses/{wide}/output?tail=2")).body.decode("utf-16-le") == "b\nc"


@pytest.mark.parametrize("query", ["stream=both", "tail=-1", "tail=x", "follow=maybe", "lines=3"])
async def test_bad_output_parameters(site: Site, query: str) -> None:
    """An invalid parameter of the output is 400 that names it."""
    job_id = await site.submit()
    answer = await site.get(f"/api/statuses/{job_id}/output?{query}")
    assert (answer.status, answer.json["parameter"]) == (400, query.partition("=")[0])
