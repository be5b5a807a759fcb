"""A batch is no way around what a job alone is held to: commands, jobs of others, profiles, users, scopes, keys."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.site import Answer, Site, serving
from tests.support.tokens import hash_of, secret_of

TOKENS: dict[str, Any] = {
    "owner": {"scopes": ["read", "run"]},
    "bound": {"scopes": ["read", "run"], "commands": [{"command": "true"}, {"command": "make", "env": ["TARGET"]}]},
    "blind": {"scopes": ["run"]},
    "confined": {"scopes": ["read", "run"], "profile": "strict"},
    "other-user": {"scopes": ["read", "run"], "run_as": "nobody"},
    "reader": {"scopes": ["read"]},
}
SETTINGS: dict[str, Any] = {
    "auth": {
        "tokens": [{"name": name, "hash": hash_of(name), **more} for name, more in TOKENS.items()],
        "tokens_file": None,
    },
    "profiles": {"strict": {}, "loose": {}},
    "queues": {"strict": {"profile": "strict"}, "loose": {"profile": "loose"}},
    "callbacks": {"hosts": ["a.example"], "secret": f"whsec_{'A' * 32}"},
}
GOOD = {"command": "true"}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with serving(tmp_path, **SETTINGS) as running:
        yield running


async def batch(site: Site, who: str, *jobs: Any, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named["Authorization"] = f"Bearer {secret_of(who)}"
    return await site.ask("POST", "/api/jobs/batch", json={"jobs": jobs}, headers=named)


async def stored(site: Site) -> list[int]:
    return sorted(job.id for job in await site.store.jobs(range(1, 100)))


FORBIDDEN = [
    ({"command": "id"}, "/command"),
    ({"argv": ["true"]}, "/argv"),
    ({"command": "true", "env": {"LD_PRELOAD": "x.so"}}, "/env/LD_PRELOAD"),
    ({"command": "make", "cwd": "/tmp"}, "/cwd"),
    ({"command": "true", "stdin": "id"}, "/stdin"),
    ({"command": "true", "leave_children": True}, "/leave_children"),
    ({"command": "true", "limits": {"open_files": 8}}, "/limits/open_files"),
    ({"command": "true", "queue": "strict"}, "/profile"),  # it imposes one that no rule allows
]


@pytest.mark.parametrize(("job", "pointer"), FORBIDDEN, ids=[pointer for _, pointer in FORBIDDEN])
async def test_one_command_that_is_not_allowed_refuses_all(site: Site, job: Any, pointer: str) -> None:
    """Among many that are, and beside what is not valid, it is 403 with its pointer, and in the audit log as such."""
    allowed = [GOOD, {"command": "make", "env": {"TARGET": "all"}}]
    for others in ([*allowed * 20], [], [*allowed, {"command": "true", "timeout": 0}, "nonsense"]):
        answer = await batch(site, "bound", *others, job, *others)
        assert (answer.status, answer.json["type"]) == (403, "/problems/command-not-allowed")
        assert [error["pointer"] for error in answer.json["errors"]] == [f"#/jobs/{len(others)}{pointer}"]
        event, line = site.audit.lines[-1]
        assert (event, line["why"], line["who"]) == ("rejected", "command-not-allowed", "token:bound")
    assert await stored(site) == []
    assert (await batch(site, "bound", *allowed)).status == 202


async def test_every_command_that_is_not_allowed_is_named(site: Site) -> None:
    """Each has its pointer, also those of different kinds."""
    answer = await batch(site, "bound", *(job for job, _ in FORBIDDEN))
    expected = [f"#/jobs/{index}{pointer}" for index, (_, pointer) in enumerate(FORBIDDEN)]
    assert [error["pointer"] for error in answer.json["errors"]] == expected


async def test_a_dependency_reveals_nothing(site: Site) -> None:
    """Another's job, one that never was and one of the same batch get the same answer, and nothing is accepted."""
    (theirs,) = (await batch(site, "owner", GOOD)).json["jobs"]
    found = set()
    for job_id in (theirs["job_id"], 9, theirs["job_id"] + 1, theirs["job_id"] + 2):
        answer = await batch(site, "blind", GOOD, {"command": "true", "after": [job_id]})
        assert [error["pointer"] for error in answer.json["errors"]] == ["#/jobs/1/after/0"]
        found.add((answer.status, answer.body.replace(b"job %d" % job_id, b"job N")))
    assert len(found) == 1
    assert await stored(site) == [theirs["job_id"]]
    own = (await batch(site, "blind", GOOD)).json["jobs"][0]["job_id"]
    assert (await batch(site, "blind", {"command": "true", "after": [own]})).status == 202


async def test_no_job_leaves_the_profile_of_its_token(site: Site) -> None:
    """Every job of a batch gets it; one that asks for another, or for a queue with another, refuses all."""
    accepted = await batch(site, "confined", GOOD, {**GOOD, "profile": "strict"}, {**GOOD, "queue": "strict"})
    assert [job["profile"] for job in accepted.json["jobs"]] == ["strict"] * 3
    refused = await batch(
        site,
        "confined",
        GOOD,
        {**GOOD, "profile": "loose"},
        {**GOOD, "queue": "loose"},
        {**GOOD, "leave_children": True},
    )
    assert refused.status == 422
    pointers = [error["pointer"] for error in refused.json["errors"]]
    assert pointers == ["#/jobs/1/profile", "#/jobs/2/queue", "#/jobs/3/leave_children"]
    assert len(await stored(site)) == 3


async def test_every_job_is_its_users(site: Site) -> None:
    """The token decides who runs them; no job can name a user, and the line in the audit log does."""
    accepted = await batch(site, "other-user", GOOD, GOOD)
    assert [(job["run_as"], job["submitter"]) for job in accepted.json["jobs"]] == [
        ("nobody", "token:other-user")
    ] * 2
    (line,) = [line for event, line in site.audit.lines if event == "accepted"]
    assert line["run_as"] == "nobody"
    refused = await batch(site, "other-user", GOOD, {**GOOD, "run_as": "root"})
    assert [error["pointer"] for error in refused.json["errors"]] == ["#/jobs/1/run_as"]


async def test_one_callback_needs_read(site: Site) -> None:
    """Without `read` no result of any job comes by a callback, and the answer names no host."""
    for host in ("a.example", "b.example"):
        answer = await batch(site, "blind", GOOD, {**GOOD, "notify": {"url": f"https://{host}/"}})
        assert (answer.status, answer.json["type"]) == (403, "/problems/insufficient-scope")
        assert b"a.example" not in answer.body
    assert await stored(site) == []


async def test_reading_is_not_running(site: Site) -> None:
    """A token without `run` submits nothing."""
    assert (await batch(site, "reader", GOOD)).json["type"] == "/problems/insufficient-scope"
    assert await stored(site) == []


async def test_a_key_is_its_owners(site: Site) -> None:
    """A key that another token has used for the same batch is unused for this one."""
    key = {"Idempotency_Key": '"theirs"'}
    theirs = (await batch(site, "owner", GOOD, GOOD, **key)).json["jobs"]
    mine = (await batch(site, "blind", GOOD, GOOD, **key)).json["jobs"]
    assert not {job["job_id"] for job in theirs} & {job["job_id"] for job in mine}
    assert {job["submitter"] for job in mine} == {"token:blind"}


async def test_no_value_leaves_the_batch(site: Site) -> None:
    """Values of variables and input are in no answer and no line of the audit log, accepted or refused."""
    secret = {"command": "true", "env": {"A": "канарейка"}, "stdin": "канарейка"}
    answers = [await batch(site, "owner", secret, *more) for more in ([], [{"timeout": "x"}], [{**secret, "env": 1}])]
    assert [answer.status for answer in answers] == [202, 422, 422]
    shown = b"".join(answer.body for answer in answers).decode() + json.dumps(site.audit.lines, ensure_ascii=False)
    assert "канарейка" not in shown
