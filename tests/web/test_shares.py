"""The shares of tokens over HTTP: the problem for a client that has used its own up, and that others are served."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.support.site import Answer, Site, serving
from tests.support.tokens import hash_of, secret_of

from .test_security import check_problem
from .test_session import bearer, cookie_of

SHARES: dict[str, dict[str, Any]] = {
    "ci": {},
    "few": {"max_queued": 2, "max_running": 1},
    "slow": {"requests_per_second": 0.01, "requests_burst": 3},
    "far": {"networks": ["192.0.2.0/24"]},
    "near": {"networks": ["127.0.0.0/8"]},
    "local": {"networks": ["unix"]},
}
AUTH = {
    "tokens": [
        {
            "name": name,
            "hash": hash_of(name),
            "scopes": ["read", "run"],
            **shares,
        }
        for name, shares in SHARES.items()
    ],
    "session_cookie": True,
    "tokens_file": None,
}
JOB = {"command": "true"}


def problem(answer: Answer, status: int, kind: str) -> Any:
    """Check that it is this problem; return the document."""
    check_problem(answer, status)
    assert answer.json["type"] == f"/problems/{kind}"
    return answer.json


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[Site]:
    async with serving(tmp_path, auth=AUTH, server={"proxies": ["127.0.0.3"]}) as running:
        yield running


async def submit(site: Site, name: str, **job: Any) -> Answer:
    return await site.ask("POST", "/api/jobs", headers=bearer(name), json=JOB | job)


async def test_a_token_cannot_fill_the_queue_for_the_others(shared: Site) -> None:
    """The third job that would wait is 429 and names the share; the others' are accepted."""
    answers = [await submit(shared, "few", **more) for more in ({}, {"start_at": "2100-01-01T00:00:00Z"}, {})]
    assert [answer.status for answer in answers] == [202, 202, 429]
    document = problem(answers[2], 429, "too-many-queued-jobs")
    assert (document["share"], document["limit"], answers[2].headers["Retry-After"]) == ("max_queued", 2, "1")
    assert (await submit(shared, "ci")).status == 202


async def test_a_token_that_runs_enough_holds_up_nobody(shared: Site) -> None:
    """With one of its jobs running, the next to start is another's, though it came later."""
    for name in ("few", "few"):
        assert (await submit(shared, name)).status == 202
    first, later = shared.simulated_runner(), shared.simulated_runner()
    assert (await first.claim()).job_id == 1
    assert (await submit(shared, "ci")).status == 202
    assert (await later.claim()).job_id == 3
    await first.finish()
    assert (await first.claim()).job_id == 2


async def test_a_token_that_asks_too_often_must_wait(shared: Site) -> None:
    """Its sessions count with it, whatever is asked for; 429 has Retry-After, and the others are served."""
    begun = await shared.ask("POST", "/api/session", headers=bearer("slow"))
    cookie = cookie_of(begun)
    assert (await shared.get("/api/statuses", headers=cookie)).status == 200
    assert (await submit(shared, "slow")).status == 202
    for headers in (bearer("slow"), cookie):
        answer = await shared.get("/api/statuses", headers=headers)
        document = problem(answer, 429, "too-many-requests")
        assert (document["share"], document["limit"]) == ("requests_per_second", 0.01)
        assert 90 < int(answer.headers["Retry-After"]) <= 100
    assert (await shared.get("/api/statuses", headers=bearer("ci"))).status == 200
    whose = {line["who"] for _, line in shared.audit.lines if line.get("why") == "too-many-requests"}
    assert whose == {"token:slow"}


SOURCES = {
    "from elsewhere": ("far", {}, 403),
    "from there": ("near", {}, 200),
    "over TCP": ("local", {}, 403),
    "no restriction": ("ci", {"X-Forwarded-For": "192.0.2.7"}, 200),
    "claimed": ("far", {"X-Forwarded-For": "192.0.2.7"}, 403),
    "through a proxy that is not named": ("near", {"X-Forwarded-For": "127.0.0.1"}, 403),
    "through one that says only that it is one": ("near", {"Via": "1.1 somewhere"}, 403),
}


@pytest.mark.parametrize(("name", "headers", "status"), SOURCES.values(), ids=SOURCES)
async def test_a_token_is_good_only_where_it_may_be_used(
    shared: Site, name: str, headers: dict[str, str], status: int
) -> None:
    """The peer's address counts, and what an unnamed proxy says of the client is no address at all."""
    answer = await shared.get("/api/jobs", headers=bearer(name, **headers))
    assert answer.status == status
    if status == 403:
        assert problem(answer, 403, "network-not-allowed")["share"] == "networks"


PROXIED = {
    "X-Forwarded-For: 192.0.2.7": ("far", 200),
    "X-Forwarded-For: 192.0.2.7, 198.51.100.1": (
        "far",
        403,
    ),  # the proxy saw another client
    "X-Forwarded-For: ::ffff:192.0.2.7": ("far", 200),
    "X-Forwarded-For: unknown": ("near", 403),
    "X-Forwarded-For: unknown, 127.0.0.3": ("near", 403),
    "Forwarded: for=192.0.2.7": ("far", 403),
    "X-Forwarded-Proto: https": ("near", 403),
    "X-Other: 1": ("near", 200),  # the proxy's own request
}


@pytest.mark.parametrize(("header", "expected"), PROXIED.items(), ids=PROXIED)
async def test_a_trusted_proxy_names_the_client(shared: Site, header: str, expected: tuple[str, int]) -> None:
    """Behind a proxy that is named, its X-Forwarded-For is the client's address; without one it is not known."""
    name, status = expected
    where = ("127.0.0.3", 0)
    request = (
        f"GET /api/jobs HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nAuthorization: Bearer {secret_of(name)}\r\n"
        f"{header}\r\nConnection: close\r\n\r\n"
    )
    answer = await shared.raw(request, local=where)
    assert answer.split()[1] == str(status).encode()


async def test_over_a_unix_socket_only_that_is_named(shared: Site, tmp_path: Path) -> None:
    """A token with networks needs "unix" among them for the Unix socket, and no proxy before it."""
    path = str(tmp_path / "s")
    await web.UnixSite(shared.runner, path).start()
    for name, more, status in (
        ("local", "", 200),
        ("near", "", 403),
        ("ci", "", 200),
        ("local", "Via: 1.1 x\r\n", 403),
    ):
        request = (
            f"GET /api/jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {secret_of(name)}\r\n{more}"
            "Connection: close\r\n\r\n"
        )
        answer = await shared.raw(request, path=path)
        assert answer.split()[1] == str(status).encode(), name
