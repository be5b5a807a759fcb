"""POST /api/jobs/batch: many jobs in one request, all or none, each held to what a POST of its own would be."""

import asyncio
import hashlib
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shellrunner import web
from shellrunner.access import Identity, submission
from shellrunner.config import Settings
from shellrunner.errors import InvalidJob, InvalidJobs
from shellrunner.model import JobSpec
from shellrunner.store.query import search
from shellrunner.web.http.streaming import STREAMS
from shellrunner.web.security import audit_details
from shellrunner.wire import json_codec, parse
from tests.support.selected_service import IS_CLUSTER
from tests.support.site import Answer, Site, serving
from tests.support.tokens import hash_of
from tests.support.waiting import until

from .test_security import check_problem
from .test_session import bearer

PATH = "/api/jobs/batch"
JSON = {"Content-Type": "application/json"}
JOB = {"command": "true"}
MIB = 1 << 20


async def post(site: Site, *jobs: Any, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await site.ask("POST", PATH, json={"jobs": jobs}, headers=named)


async def stored(site: Site) -> list[int]:
    listed = (await site.get("/api/jobs?limit=1000&fields=job_id")).json["jobs"]
    return sorted(job["job_id"] for job in listed)


def lines(site: Site, event: str) -> list[dict[str, Any]]:
    return [details for name, details in site.audit.lines if name == event]


@pytest.fixture
def indexed_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the store index the texts of new jobs, in commits of its own, long after the test."""
    monkeypatch.setattr(search, "_GATHER_DELAY", 3600.0)


@pytest.mark.usefixtures("indexed_later")
async def test_many_jobs_are_accepted_in_their_order(site: Site) -> None:
    """The answer lists them as GET shows each; it has no Location, one commit and two lines in the audit log."""
    await site.submit()
    commits, logged = site.store.commits, len(site.audit.lines)
    answer = await post(site, {"command": "echo привет", "labels": {"a": "b"}}, {"argv": ["ls", "-l"]}, JOB)
    assert (answer.status, answer.headers["Cache-Control"]) == (202, "no-store")
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert "Location" not in answer.headers
    assert site.store.commits - commits == 1 or IS_CLUSTER  # a node renews its lease meanwhile
    assert [name for name, _ in site.audit.lines[logged:]] == ["accepted", "response"]
    assert lines(site, "response")[-1]["ids"] == "2-4"
    assert [job["job_id"] for job in answer.json["jobs"]] == [2, 3, 4]
    assert [job["command"] for job in answer.json["jobs"]] == ["echo привет", "ls -l", "true"]
    for job in answer.json["jobs"]:
        assert (await site.get(f"/api/jobs/{job['job_id']}")).json == job


@pytest.mark.usefixtures("indexed_later")
async def test_a_thousand_jobs(site: Site) -> None:
    """As many as are allowed are one commit and one answer, which is complete."""
    commits = site.store.commits
    answer = await post(site, *({"command": f"echo {number}"} for number in range(1000)))
    assert answer.status == 202
    assert [job["command"] for job in answer.json["jobs"]] == [f"echo {number}" for number in range(1000)]
    assert site.store.commits - commits == 1 or IS_CLUSTER  # a node renews its lease meanwhile


async def test_prefer_is_ignored(site: Site) -> None:
    """A preference to wait does not apply to a batch (RFC 7240 allows that), and is not confirmed."""
    answer = await post(site, JOB, Prefer="wait=10")
    assert answer.status == 202
    assert "Preference-Applied" not in answer.headers


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "#/jobs"),
        ([], "#"),
        ({"jobs": []}, "#/jobs"),
        ({"jobs": {}}, "#/jobs"),
        ({"jobs": None}, "#/jobs"),
        ({"jobs": [JOB] * 1001}, "#/jobs"),
        ({"jobs": [JOB], "command": "true"}, "#/command"),
        ({"jobs": ["true"]}, "#/jobs/0"),
        ({"jobs": [JOB, None]}, "#/jobs/1"),
        ({"jobs": [JOB, {}]}, "#/jobs/1"),
        ({"jobs": [JOB, {"jobs": [JOB]}]}, "#/jobs/1/jobs"),
        ({"jobs": [{"command": "a", "env": {"a/b~c": 1}}]}, "#/jobs/0/env/a~1b~0c"),
    ],
)
async def test_what_is_no_batch(site: Site, body: Any, pointer: str) -> None:
    """A body that is JSON, but not a list of 1 to 1,000 jobs, is 422 with a pointer into the whole of it.

    The reason is in the service's own words, not in those of the validation library.
    """
    answer = await site.ask("POST", PATH, json=body)
    check_problem(answer, 422)
    assert answer.json["type"] == "/problems/invalid-job"
    assert answer.json["errors"][0]["pointer"] == pointer
    assert "Input" not in answer.json["detail"]
    assert await stored(site) == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"jobs": [{"command": "a", "command": "b"}]}',
        b'{"jobs": [{"command": "a", "timeout": NaN}]}',
        b'{"jobs": [{"command": "\\ud800"}]}',
        b'{"jobs": ' + b"[" * 100_000,
        b'{"jobs": [{"command": "a", "timeout": ' + b"1" * 2000 + b"}]}",
        b'{"jobs": [{"command": "\xff"}]}',
    ],
)
async def test_what_is_no_json(site: Site, body: bytes) -> None:
    """The JSON of a batch is held to the same rules as that of a job."""
    answer = await site.ask("POST", PATH, data=body, headers=JSON)
    assert (answer.status, answer.json["type"]) == (400, "/problems/malformed-json")


async def test_other_verbs_and_types(site: Site) -> None:
    """The path takes POST of JSON only."""
    answer = await site.get(PATH)
    assert (answer.status, answer.headers["Allow"]) == (405, "OPTIONS, POST")
    answer = await site.ask("POST", PATH, data=b'{"jobs": []}', headers={"Content-Type": "text/plain"})
    assert answer.status == 415


# Each spec is held to what POST says of it alone -----------------------------------------------------------------

SPECS: list[Any] = [
    JOB,
    {"argv": ["ls"], "priority": 5},
    {"command": "a", "queue": "slow"},
    {"command": "a", "queue": "nowhere"},
    {"command": "a", "timeout": 0, "priority": "high"},
    {"comand": "a"},
    {"command": "a", "argv": ["a"]},
    {"argv": []},
    {"argv": [1, 2]},
    {"command": "a", "env": {"=": "x", "SHELLRUNNER_JOB": "1"}},
    {"command": "a", "limits": {"memory_bytes": 1 << 50, "cpu_seconds": 0}},
    {"command": "a", "after": [99]},
    {"command": "a", "after": [1, 98, 99]},
    {"command": "a", "notify": {"url": "https://example.org/"}},
    {"command": "a", "profile": "none"},
    {"command": "a", "labels": {"no such key": "x"}},
    "true",
]
SECTIONS: dict[str, Any] = {"queues": {"slow": {}}, "jobs": {"memory_bytes": 1 << 30, "output_bytes": 1 << 30}}
# What a POST says before the history is asked; there, unknown ids in `after` are found, if all else is well.
EARLY = [spec for spec in SPECS if "after" not in spec]


async def test_errors_are_those_that_each_job_has_alone(tmp_path: Path) -> None:
    """Whatever is mixed: the same errors, with pointers into the batch; nothing is stored unless all are valid."""
    async with serving(tmp_path, **SECTIONS) as site:
        await site.submit()
        alone = [await site.ask("POST", "/api/jobs", json=spec) for spec in SPECS]
        choose = random.Random(14)
        outcomes = set()
        for pool in [EARLY] * 10 + [[spec for spec in SPECS if alone[SPECS.index(spec)].status == 202]] * 3 + [SPECS]:
            chosen = choose.sample(pool, k=min(len(pool), 4)) if pool is not SPECS else [SPECS[11], JOB, SPECS[12]]
            expected = [
                {**error, "pointer": f"#/jobs/{index}{error['pointer'][1:]}"}
                for index, spec in enumerate(chosen)
                if (answer := alone[SPECS.index(spec)]).status == 422
                for error in answer.json["errors"]
            ]
            before = await stored(site)
            answer = await post(site, *chosen)
            outcomes.add(answer.status)
            assert answer.status == (422 if expected else 202), chosen
            assert answer.json.get("errors", []) == expected
            assert len(await stored(site)) - len(before) == (0 if expected else len(chosen))
        assert outcomes == {202, 422}


ANYBODY = Identity("token:any", frozenset({"read", "run"}))
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5))
KEYS = st.sampled_from([*JobSpec.model_fields, "unknown"])
INVENTED = st.dictionaries(KEYS, st.one_of(VALUES, st.lists(VALUES, max_size=3), st.dictionaries(KEYS, VALUES)))


@pytest.mark.heavy
@settings(max_examples=40)
@given(st.lists(st.one_of(st.sampled_from(EARLY), INVENTED, VALUES), min_size=1, max_size=6))
def test_the_errors_of_a_batch_are_those_of_its_jobs(specs: list[Any]) -> None:
    """The checks of a batch are those of POST for each of its jobs, for any JSON."""
    config = Settings.model_validate(SECTIONS)

    def errors(check: Callable[[], Any]) -> list[dict[str, str]]:
        try:
            check()
        except InvalidJob as error:
            found: list[dict[str, str]] = error.members["errors"]
            return found
        return []

    expected = [
        {**error, "pointer": f"#/jobs/{index}{error['pointer'][1:]}"}
        for index, spec in enumerate(specs)
        for error in errors(lambda spec=spec: submission.admit(ANYBODY, parse.job_spec(spec), config, config.queues))  # type: ignore[misc]
    ]
    batch = parse.job_specs({"jobs": specs}, is_large=False)
    assert errors(lambda: submission.admit_all(ANYBODY, batch, config, config.queues)) == expected[:100]


def test_errors_are_bounded_before_they_are_made() -> None:
    """Of a thousand jobs with a hundred errors each, no more are validated than a response has room for."""
    bad = {f"unknown{number}": 1 for number in range(50)}
    specs = parse.job_specs({"jobs": [bad] * 1000}, is_large=False)
    assert len(specs) == 100
    with pytest.raises(InvalidJobs) as refused:
        submission.admit_all(ANYBODY, specs, Settings(), ["default"])
    assert len(refused.value.members["errors"]) == 100


# Size ------------------------------------------------------------------------------------------------------------


def of_size(size: int, jobs: int = 10) -> bytes:
    """Return a batch of so many bytes."""
    body = json.dumps({"jobs": [{"command": "true", "stdin": ""}] * jobs}).encode()
    filler = b"x" * ((size - len(body)) // jobs)
    return body.replace(b'"stdin": ""', b'"stdin": "%s"' % filler).ljust(size)


@pytest.mark.heavy
async def test_a_batch_may_have_8_mib(site: Site) -> None:
    """Exactly 8 MiB are accepted, a byte more is 413; a route beside it takes 1 MiB as ever."""
    send = {"headers": JSON}
    assert (await site.ask("POST", PATH, data=io.BytesIO(of_size(8 * MIB)), **send)).status == 202
    refused = await site.ask("POST", PATH, data=io.BytesIO(of_size(8 * MIB) + b" "), **send)
    assert (refused.status, refused.json["limit"]) == (413, 8 * MIB)
    assert "8 MiB" in refused.json["detail"]
    for path in ("/api/jobs", "/api/jobs/1/signal"):
        refused = await site.ask("POST", path, data=io.BytesIO(b" " * MIB + b"{}"), **send)
        assert (refused.status, refused.json["limit"]) == (413, MIB), path
    assert len(await stored(site)) == 10


async def test_no_job_of_a_batch_is_larger_than_one_alone_may_be(site: Site) -> None:
    """A job of more than 1 MiB as JSON is 422, where alone it would be 413."""
    large = {"command": "true", "stdin": "x" * MIB}
    body = io.BytesIO(json.dumps({"jobs": [JOB, large, large]}).encode())
    answer = await site.ask("POST", PATH, data=body, headers=JSON)
    assert answer.status == 422
    assert [error["pointer"] for error in answer.json["errors"]] == ["#/jobs/1", "#/jobs/2"]


async def test_nobody_sends_8_mib_before_it_is_known_who_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a valid token the answer comes before the body, which is not waited for."""
    monkeypatch.setitem(web._SERVER_OPTIONS, "lingering_time", 0.01)
    auth = {"tokens": [{"name": "ci", "hash": hash_of("ci"), "scopes": ["run"]}], "tokens_file": None}
    async with serving(tmp_path, auth=auth) as site:
        for more in ("", "Authorization: Bearer wrong\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            head = f"POST {PATH} HTTP/1.1\r\nHost: localhost:{site.port}\r\nContent-Type: application/json\r\n{more}"
            writer.write(f"{head}Content-Length: {8 * MIB}\r\n\r\n".encode())
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 401 ")
            writer.transport.abort()
            await until(lambda: not site.connections)


# Idempotency -----------------------------------------------------------------------------------------------------


async def test_one_key_for_all(site: Site) -> None:
    """Repeats, also at the same time, answer with the same jobs as they are now; another body is 422."""
    answers = await asyncio.gather(*(post(site, JOB, JOB, Idempotency_Key='"k"') for _ in range(20)))
    assert {answer.status for answer in answers} == {202}
    assert {tuple(job["job_id"] for job in answer.json["jobs"]) for answer in answers} == {(1, 2)}
    await site.store.request_cancel(2)
    again = await post(site, JOB, JOB, Idempotency_Key='"k"')
    assert [(job["job_id"], job["state"]) for job in again.json["jobs"]] == [(1, "queued"), (2, "done")]
    for path, body in ((PATH, {"jobs": [JOB]}), (PATH, {"jobs": [JOB] * 3}), ("/api/jobs", JOB)):
        other = await site.ask("POST", path, json=body, headers={"Idempotency-Key": '"k"'})
        assert (other.status, other.json["type"]) == (422, "/problems/key-reused")
    assert await stored(site) == [1, 2]


async def test_a_key_of_a_batch_of_which_a_job_was_deleted(site: Site) -> None:
    """It is 410, names all ids of the batch, and submits nothing."""
    await post(site, JOB, JOB, JOB, Idempotency_Key="k")
    await site.store.request_cancel(2)
    await site.store.delete_job(2)
    answer = await post(site, JOB, JOB, JOB, Idempotency_Key="k")
    assert (answer.status, answer.json["type"]) == (410, "/problems/job-gone")
    assert "jobs 1 to 3" in answer.json["detail"]
    assert await stored(site) == [1, 3]


async def test_refused_batches_leave_no_key(tmp_path: Path) -> None:
    """A key whose batch was refused can be used for the corrected one."""
    async with serving(tmp_path, supervisor={"max_queued": 2}) as site:
        for jobs, status in (([JOB, {"timeout": 0}], 422), ([JOB] * 3, 503), ([JOB, JOB], 202)):
            assert (await post(site, *jobs, Idempotency_Key='"k"')).status == status


# Limits and states of the service --------------------------------------------------------------------------------


async def test_a_queue_takes_all_or_none(tmp_path: Path) -> None:
    """What does not fit as a whole is refused, and the problem says how many would fit."""
    async with serving(tmp_path, queues={"small": {"max_queued": 2}}, supervisor={"max_queued": 4}) as site:
        small = {**JOB, "queue": "small"}
        for jobs, limit, room in (([JOB] * 5, 4, 4), ([JOB, small, small, small], 2, 2)):
            answer = await post(site, *jobs)
            check_problem(answer, 503)
            assert (answer.json["type"], answer.json["limit"], answer.json["room"]) == (
                "/problems/queue-full",
                limit,
                room,
            )
            assert answer.headers["Retry-After"]
            assert await stored(site) == []
        assert (await post(site, JOB, small, small)).status == 202


async def test_a_token_takes_its_share_or_less(tmp_path: Path) -> None:
    """`max_queued` of a token counts every job of a batch; others are not affected."""
    tokens = [
        {"name": name, "hash": hash_of(name), "scopes": ["read", "run"], **more}
        for name, more in (("few", {"max_queued": 2}), ("ci", {}))
    ]
    async with serving(tmp_path, auth={"tokens": tokens, "tokens_file": None}) as site:
        answer = await site.ask("POST", PATH, json={"jobs": [JOB] * 3}, headers=bearer("few"))
        check_problem(answer, 429)
        assert (answer.json["share"], answer.json["limit"], answer.json["room"]) == ("max_queued", 2, 2)
        for name, number in (("ci", 3), ("few", 2)):
            accepted = await site.ask("POST", PATH, json={"jobs": [JOB] * number}, headers=bearer(name))
            assert accepted.status == 202
            assert {job["submitter"] for job in accepted.json["jobs"]} == {f"token:{name}"}


async def test_nothing_is_accepted_while_the_service_stops(site: Site) -> None:
    """As for a job alone."""
    site.app[STREAMS].close()
    answer = await post(site, JOB)
    assert (answer.status, answer.json["type"]) == (503, "/problems/shutting-down")


async def test_nothing_is_accepted_without_a_line_in_the_audit_log(site: Site) -> None:
    """The line comes before the commit."""
    site.audit.full = True
    assert (await post(site, JOB, JOB)).status == 503
    site.audit.full = False
    assert await stored(site) == []


# The audit log ---------------------------------------------------------------------------------------------------


async def test_one_line_says_what_was_asked_for(site: Site) -> None:
    """The commands, their hashes, and in groups what else the jobs contain; no value of a variable."""
    env = {"TOKEN": "канарейка"}
    jobs = [{"command": "echo a"}, {"argv": ["ls", "/"]}, {"command": "b", "env": env}, {"command": "c", "env": env}]
    await post(site, *jobs, {"command": "echo d", "cwd": "/srv"})
    (line,) = lines(site, "accepted")
    commands = ["echo a", "ls /", "b", "c", "echo d"]
    assert (line["jobs"], line["commands"]) == (5, commands)
    assert line["commands_bytes"] == sum(map(len, commands))
    assert line["commands_sha256"] == hashlib.sha256("".join(f"{each}\0" for each in commands).encode()).hexdigest()
    hashes = [hashlib.sha256(each.encode()).hexdigest()[:12] for each in commands]
    assert line["command_hashes"] == "".join(hashes)
    assert line["specs"] == [
        {"jobs": "0", "form": "shell"},
        {"jobs": "1", "form": "argv"},
        {"jobs": "2-3", "form": "shell", "env": ["TOKEN"]},
        {"jobs": "4", "form": "shell", "cwd": "/srv"},
    ]
    assert "канарейка" not in json.dumps(site.audit.lines, ensure_ascii=False)


@pytest.mark.parametrize("length", [10, 1000])
@pytest.mark.parametrize("filler", ["x1", "\x01", "ы", "🦆", '"', " "])
def test_a_line_has_a_bound_and_a_trace_of_every_command(filler: str, length: int) -> None:
    """Whatever the other jobs are filled with, each command has a hash and an excerpt, in less than 48 KiB."""
    specs = [
        JobSpec(
            command=f"echo {number} {filler * length}", env={f"{filler}{number}x": ""}, labels={f"l{number}": filler}
        )
        for number in range(999)
    ]
    specs.insert(500, JobSpec(command="touch payload"))
    details = audit_details.of_jobs(specs, "root", 1000)
    assert len(json.dumps(details)) < 48_000
    assert details["commands"][500] == "touch payload"
    assert len(details["commands"]) == 1000
    assert len(details["command_hashes"]) == 12_000
    assert (details["specs_count"], details["run_as"]) == (1000, "root")
    assert len(details["specs_sha256"]) == 64


def test_a_batch_with_few_long_commands_shows_as_much_as_each_alone() -> None:
    """The limit of a command is that of the configuration, as long as all fit; without one nothing is shortened."""
    long = "head " + "x1" * 5000 + " tail"
    shown = audit_details.of_jobs([JobSpec(command=long)] * 3, None, 1000)["commands"]
    assert {len(text) for text in shown} <= set(range(900, 1001))
    assert all(text.startswith("head ") and text.endswith(" tail") for text in shown)
    details = audit_details.of_jobs([JobSpec(command=long, env={str(n): ""}) for n in range(500)], None, None)
    assert details["commands"] == [long] * 500
    assert len(details["specs"]) == 500


@pytest.mark.parametrize(("path", "body"), [(PATH, {"jobs": [JOB] * 3}), ("/api/jobs", JOB)])
async def test_a_body_is_parsed_once(site: Site, monkeypatch: pytest.MonkeyPatch, path: str, body: Any) -> None:
    """With an Idempotency-Key too, whose digest is of the parsed body."""
    parsed = []
    real = json_codec.loads

    def loads(content: bytes) -> Any:
        parsed.append(content)
        return real(content)

    monkeypatch.setattr(json_codec, "loads", loads)
    answer = await site.ask("POST", path, json=body, headers={"Idempotency-Key": "k"})
    assert (answer.status, len(parsed)) == (202, 1)
