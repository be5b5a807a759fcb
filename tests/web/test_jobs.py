"""Jobs over HTTP: the specification's examples; submit, show, list, cancel, delete."""

import io
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shellrunner.clock import now_ms
from shellrunner.model import End, Ending, JobSpec
from tests.support.site import Site


async def test_specification_submit(site: Site) -> None:
    """The specification's POST is 202 with the status in Location, and the status is 200 and not done."""
    answer = await site.ask("POST", "/api/jobs", json={"command": "cp  /tmp/file /mnt/nfs/"})
    assert answer.status == 202
    assert answer.headers["Location"] == f"/api/statuses/{answer.json['job_id']}"
    status = await site.get(answer.headers["Location"])
    assert status.status == 200
    assert {"status_id": 1, "done": False}.items() <= status.json.items()
    assert status.headers["Retry-After"] == "1"


async def test_specification_result(site: Site) -> None:
    """A finished job's status is 303 to a result that has all the keys of the specification's sample."""
    words = "cp: cannot stat ‘/tmp/file’: No such file or directory\n"
    end = End(Ending.EXITED, 1471620702201, exit_code=1, started=1471620702000, duration=0.3345)
    job_id = await site.done(stderr=words.encode(), end=end, command="cp /tmp/file /mnt/nfs/")
    status = await site.get(f"/api/statuses/{job_id}")
    assert (status.status, status.headers["Location"]) == (303, f"/api/results/{job_id}")
    assert status.json["done"] is True
    result = await site.get(status.headers["Location"])
    assert result.status == 200
    sample = {
        "result_id": job_id,
        "duration": 0.3345,
        "completed": "2016-08-19T15:31:42.201Z",
        "stdout": "",
        "stderr": words,
        "exit_code": 1,
    }
    assert sample.items() <= result.json.items()


async def test_specification_list(site: Site) -> None:
    """The list has job_id, command and created of every job, newest first, Cyrillic as itself."""
    await site.submit(command="ifconfig")
    await site.submit(argv=["echo", "привет мир"])
    answer = await site.get("/api/jobs")
    assert [(job["job_id"], job["command"]) for job in answer.json["jobs"]] == [
        (2, "echo 'привет мир'"),
        (1, "ifconfig"),
    ]
    assert "привет".encode() in answer.body
    assert answer.body.endswith(b"\n")
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.json["next"] is None


async def test_job_shows_no_secret(site: Site) -> None:
    """A job shows the names of its variables and neither their values nor its standard input."""
    answer = await site.ask(
        "POST", "/api/jobs", json={"command": "true", "env": {"TOKEN": "geheim1"}, "stdin": "geheim2"}
    )
    shown = await site.get(f"/api/jobs/{answer.json['job_id']}")
    assert shown.json["env"] == ["TOKEN"]
    for body in (answer.body, shown.body, (await site.get("/api/jobs")).body):
        assert b"geheim" not in body


async def test_job_keys(site: Site) -> None:
    """A job shows everything that was submitted, and the path of its status."""
    asked = {
        "argv": ["ls", "-l"],
        "cwd": "/tmp",
        "timeout": 1.5,
        "priority": 7,
        "merge_stderr": True,
        "leave_children": True,
        "encoding": "koi8-r",
        "limits": dict.fromkeys(("memory_bytes", "cpu_seconds", "processes", "open_files")) | {"output_bytes": 1000},
    }
    job = (await site.ask("POST", "/api/jobs", json=asked)).json
    assert asked.items() <= job.items()
    rest = {"job_id": 1, "command": "ls -l", "state": "queued", "done": False, "status": "/api/statuses/1"}
    assert {**rest, "result": None, "env": []}.items() <= job.items()


INVALID_JOBS: list[tuple[object, list[str]]] = [
    ({}, ["#"]),
    ({"command": "a", "argv": ["b"]}, ["#"]),
    ({"command": ""}, ["#/command"]),
    ({"command": "a\0b"}, ["#/command"]),
    ({"command": "я" * 65536}, ["#/command"]),
    ({"command": 1, "cmd": 2, "timeout": "x"}, ["#/command", "#/timeout", "#/cmd"]),
    ({"command": "a", "limits": {"output_bytes": 1 << 31}}, ["#/limits/output_bytes"]),
    ({"command": "a", "limits": {"output_bytes": 0, "memory": 1}}, ["#/limits/output_bytes", "#/limits/memory"]),
    ({"command": "a", "limits": []}, ["#/limits"]),
    ({"argv": []}, ["#/argv"]),
    ({"argv": ["a", 5]}, ["#/argv/1"]),
    ({"argv": [5]}, ["#/argv/0"]),
    ({"command": "a", "retries": {"max": 1, "on": ["cancelled"]}}, ["#/retries/on/0"]),
    ({"argv": "ls"}, ["#/argv"]),
    ({"argv": [5] * 300_000}, ["#/argv"]),
    ({"argv": [5] * 5_000}, [f"#/argv/{number}" for number in range(100)]),
    ({"command": "a", "env": {f"A{number}": "" for number in range(4_097)}}, ["#/env"]),
    ({"command": "a", "env": {"=" * 9000: "x"}}, ["#/env/" + "=" * 100]),
    ({"command": "a", "k" * 9000: 1}, ["#/" + "k" * 100]),
    ({"command": "a", "env": {"A/B~": 5}}, ["#/env/A~1B~0"]),
    (
        {"command": "a", "env": {"": "x", "SHELLRUNNER_JOB": "x", "B": "\0"}},
        ["#/env/", "#/env/SHELLRUNNER_JOB", "#/env/B"],
    ),
    ({"command": "a", "env": {"A": "x" * 131_070}}, ["#/env"]),
    (
        {"command": "a", "labels": {"a": "v" * 256, "b/": "", "c": "я" * 256, "d": "x\0"}},
        ["#/labels/a", "#/labels/b~1", "#/labels/c", "#/labels/d"],
    ),
    ({"command": "a", "cwd": "relative"}, ["#/cwd"]),
    ({"command": "a", "timeout": 0}, ["#/timeout"]),
    ({"command": "a", "timeout": 10**400}, ["#/timeout"]),
    ({"command": "a", "priority": 1001}, ["#/priority"]),
    ({"command": "a", "priority": 10**300}, ["#/priority"]),
    ({"command": "a", "priority": 1.5}, ["#/priority"]),
    ({"command": "a", "merge_stderr": "yes"}, ["#/merge_stderr"]),
    ({"command": "a", "encoding": "utf-7"}, ["#/encoding"]),
    ([], ["#"]),
    ("ls", ["#"]),
    (None, ["#"]),
]


async def test_invalid_job(site: Site) -> None:
    """An invalid job is 422 with a pointer and a message for every error, and is not created."""
    headers = {"Content-Type": "application/json"}
    for job, pointers in INVALID_JOBS:
        answer = await site.ask("POST", "/api/jobs", data=json.dumps(job).encode(), headers=headers)
        assert answer.status == 422, job
        assert answer.headers["Content-Type"].startswith("application/problem+json"), job
        assert sorted(error["pointer"] for error in answer.json["errors"]) == sorted(pointers), job
        for error in answer.json["errors"]:
            assert "Input" not in error["detail"], error
            assert "Value error" not in error["detail"], error
            assert len(error["detail"]) < 200, error
    assert (await site.get("/api/jobs")).json["jobs"] == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"command": "a", "command": "b"}',
        b'{"command": "a", "timeout": NaN}',
        b'{"command": "a", "timeout": -Infinity}',
        b'{"command": "\\ud800"}',
        b'{"command": "a\xff"}',
        b'{"command": "a\xed\xa0\x80"}',
        b"\xef\xbb\xbf\xef\xbb\xbf{}",
        b"[" * 500_000,
        b'{"a":' * 100_000,
        b'{"command": "a", "priority": ' + b"9" * 5000 + b"}",
        b'{"command": "a"} {}',
        b"{'command': 'a'}",
        '{"command": "a"}'.encode("utf-16"),
    ],
)
async def test_malformed_json(site: Site, body: bytes) -> None:
    """A body that is not strictly JSON in UTF-8 is 400 malformed-json."""
    answer = await site.ask("POST", "/api/jobs", data=body, headers={"Content-Type": "application/json"})
    assert (answer.status, answer.json["type"]) == (400, "/problems/malformed-json")
    assert "sys." not in answer.json["detail"]  # Python's advice to its own programmer


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
_KEYS = st.sampled_from([*JobSpec.model_fields, "other"])


@pytest.mark.heavy
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary(max_size=60) | st.dictionaries(_KEYS, _JSON, max_size=4).map(lambda job: json.dumps(job).encode())
)
async def test_fuzzed_bodies(site: Site, body: bytes) -> None:
    """Every body is answered with 202, 400 or 422."""
    answer = await site.ask("POST", "/api/jobs", data=body, headers={"Content-Type": "application/json"})
    assert answer.status in {202, 400, 422}, (body, answer.body)


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "identity, gzip", "nonsense"])
async def test_content_encoding(site: Site, coding: str) -> None:
    """A compressed body is 415 before it is read, and ends the connection; `identity` is not a compression."""
    body = b'{"command": "true"}'
    head = (
        "POST /api/jobs HTTP/1.1\r\nHost: localhost:PORT\r\nContent-Type: application/json\r\n"
        f"Content-Encoding: {coding}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    for sent in (head, head + body.decode()):
        got = await site.raw(sent, until=b"\r\n\r\n")
        assert got.split(b" ")[1] == b"415"
        assert b"\r\nAccept-Encoding: identity\r\n" in got
        assert b"\r\nConnection: close\r\n" in got
    plain = {"Content-Type": "application/json", "Content-Encoding": "Identity"}
    assert (await site.ask("POST", "/api/jobs", data=body, headers=plain)).status == 202


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 202),
        ("application/json; charset=utf-8", 202),
        ('APPLICATION/JSON;charset="UTF-8"', 202),
        ("application/json; charset=koi8-r", 415),
        (f"application/json; a={'b' * 150}", 202),
        (f"application/json; a={'b' * 200}", 415),  # longer ones are not parsed: aiohttp's parser is quadratic
        (f"application/json; a={'(' * 4000}", 415),  # and recursive
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("", 415),
    ],
)
async def test_content_type(site: Site, content_type: str, status: int) -> None:
    """POST /api/jobs takes application/json in UTF-8 and nothing else."""
    body = '{"command": "true"}'
    head = f"Content-Type: {content_type}\r\n" if content_type else ""
    got = await site.raw(
        f"POST /api/jobs HTTP/1.1\r\nHost: localhost:PORT\r\nConnection: close\r\n{head}"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    )
    assert got.startswith(f"HTTP/1.1 {status} ".encode())


async def test_too_large(site: Site) -> None:
    """A body above 1 MiB is 413, and one of exactly 1 MiB is accepted."""
    body = b'{"command": "true", "stdin": "%s"}'
    most = body.replace(b"%s", b"x" * ((1 << 20) - len(body) + 2))
    assert len(most) == 1 << 20
    headers = {"Content-Type": "application/json"}
    assert (await site.ask("POST", "/api/jobs", data=io.BytesIO(most), headers=headers)).status == 202
    refused = await site.ask("POST", "/api/jobs", data=io.BytesIO(most + b" "), headers=headers)
    assert (refused.status, refused.json["limit"]) == (413, 1 << 20)


@pytest.mark.heavy
async def test_slow_body(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that does not arrive in time is 408 and ends the connection."""
    monkeypatch.setattr("shellrunner.web.http.bodies.BODY_TIMEOUT", 0.05)
    got = await site.raw(
        "POST /api/jobs HTTP/1.1\r\nHost: localhost:PORT\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    )
    assert got.startswith(b"HTTP/1.1 408 ")
    assert b"/problems/body-too-slow" in got


async def test_cancel(site: Site) -> None:
    """A queued job is cancelled at once; cancelling a running one may be repeated; a done one is 409."""
    queued = await site.submit()
    answer = await site.ask("POST", f"/api/jobs/{queued}/cancel")
    assert (answer.status, answer.headers["Location"]) == (202, f"/api/statuses/{queued}")
    assert (answer.json["done"], answer.json["ending"]) == (True, "cancelled")
    running = await site.submit()
    await site.simulated_runner().claim()
    for _ in range(2):
        answer = await site.ask("POST", f"/api/jobs/{running}/cancel")
        assert (answer.status, answer.json["state"], answer.json["cancelling"]) == (202, "running", True)
    assert (await site.ask("POST", f"/api/jobs/{queued}/cancel")).status == 409
    assert (await site.ask("POST", "/api/jobs/99/cancel")).status == 404


async def test_remove(site: Site) -> None:
    """DELETE of a job is 409 until it is done, then deletes job, status and result."""
    waiting = await site.submit()
    assert (await site.ask("DELETE", f"/api/jobs/{waiting}")).status == 409
    await site.ask("POST", f"/api/jobs/{waiting}/cancel")
    assert (await site.ask("DELETE", f"/api/jobs/{waiting}")).status == 204
    for path in ("jobs", "statuses", "results"):
        assert (await site.get(f"/api/{path}/{waiting}")).status == 404
    assert (await site.ask("DELETE", f"/api/jobs/{waiting}")).status == 404


async def test_if_match(site: Site) -> None:
    """DELETE deletes only a version that If-Match names, and none that If-None-Match names (412)."""
    job_id = await site.done()
    for path in (f"/api/results/{job_id}", f"/api/jobs/{job_id}"):
        seen = (await site.get(path)).headers["ETag"]
        assert (await site.ask("DELETE", path, headers={"If-Match": '"other"'})).status == 412
        for known in (seen, f"W/{seen}", "*"):
            assert (await site.ask("DELETE", path, headers={"If-None-Match": known})).status == 412
        assert (await site.ask("DELETE", path, headers={"If-Match": seen, "If-None-Match": '"other"'})).status == 204


async def test_etag(site: Site) -> None:
    """A resource is 304 for a client that has its current version, and 200 after it has changed."""
    job_id = await site.submit()
    await site.simulated_runner().claim()
    for path in (
        "/api",
        f"/api/jobs/{job_id}",
        f"/api/statuses/{job_id}",
        "/api/jobs",
        "/api/statuses",
        "/api/results",
    ):
        first = await site.get(path)
        assert first.headers["Cache-Control"] == "private, no-cache"
        for known in (first.headers["ETag"], f'"x", W/{first.headers["ETag"]}', "*"):
            again = await site.get(path, headers={"If-None-Match": known})
            assert (again.status, again.body, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
        assert (await site.get(path, headers={"If-None-Match": '"x"'})).status == 200
        assert (await site.get(path, headers={"If-Match": '"x"'})).status == 412
        two = f"GET {path} HTTP/1.1\r\nHost: localhost:PORT\r\nConnection: close\r\n"
        tag = first.headers["ETag"]
        got = await site.raw(f'{two}If-None-Match: "x"\r\nIf-None-Match: {tag}\r\n\r\n')
        assert got.startswith(b"HTTP/1.1 304 ")
        got = await site.raw(f'{two}If-Match: "x"\r\nIf-Match: {tag}\r\n\r\n')
        assert got.startswith(b"HTTP/1.1 200 ")
    status = await site.get(f"/api/statuses/{job_id}")
    await site.ask("POST", f"/api/jobs/{job_id}/cancel")
    changed = await site.get(f"/api/statuses/{job_id}", headers={"If-None-Match": status.headers["ETag"]})
    assert changed.status == 200


async def test_status_times(site: Site) -> None:
    """A status has what is known: no start of a queued job, the start of a running one, everything of a done one."""
    job_id = await site.submit()
    status = (await site.get(f"/api/statuses/{job_id}")).json
    assert [status[key] for key in ("started", "completed", "ending", "exit_code", "signal", "result")] == [None] * 6
    runner = site.simulated_runner()
    await runner.claim()
    status = (await site.get(f"/api/statuses/{job_id}")).json
    assert status["state"] == "running"
    assert status["started"].endswith("Z")
    await runner.finish(End(Ending.SIGNALLED, now_ms(), signal="SIGSEGV", started=now_ms(), duration=1.0))
    status = (await site.get(f"/api/statuses/{job_id}")).json
    assert (status["ending"], status["exit_code"], status["signal"]) == ("signalled", None, "SIGSEGV")
    assert status["result"] == f"/api/results/{job_id}"
