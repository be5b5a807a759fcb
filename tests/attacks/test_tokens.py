"""Invalid tokens, insufficient tokens and session cookies: what is accepted, and for what."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from shellrunner.config.token_hash import hash_secret
from shellrunner.web import ROUTES, Route
from shellrunner.web.route import Access
from shellrunner.web.security.authentication import REQUIRED_SCOPES
from tests.support import site as web
from tests.support.attack import (
    EACH_SCOPE,
    FULL_TOKEN,
    JOB,
    Target,
    bearer,
    check_audited,
    check_held,
    looking,
    request,
    rows,
)
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="session")

BASIC = base64.b64encode(f"{FULL_TOKEN}:{FULL_TOKEN}".encode()).decode()


def shown(*values: str) -> bytes:
    """Return the request with these for its `Authorization`."""
    return request("POST", "/api/jobs", *(f"Authorization: {value}" for value in values))


WRONG = {
    "401 token-needed": {
        "none": request(),
        "another": shown("Bearer wrong"),
        "its hash": shown(f"Bearer {hash_secret(FULL_TOKEN)}"),
        "a beginning of it": shown(f"Bearer {FULL_TOKEN[:-1]}"),
        "more than it": shown(f"Bearer {FULL_TOKEN}="),
        "in other letters": shown(f"Bearer {FULL_TOKEN.swapcase()}"),
        "none behind the scheme": shown("Bearer"),
        "nothing behind the scheme": shown("Bearer "),
        "without a scheme": shown(FULL_TOKEN),
        "without a space": shown(f"Bearer{FULL_TOKEN}"),
        "behind a tab": shown(f"Bearer\t{FULL_TOKEN}"),
        "behind a colon": shown(f"Bearer: {FULL_TOKEN}"),
        "in quotes": shown(f'Bearer "{FULL_TOKEN}"'),
        "twice in one": shown(f"Bearer {FULL_TOKEN} {FULL_TOKEN}"),
        "with a comma": shown(f"Bearer {FULL_TOKEN},"),
        "with another": shown(f"Bearer {FULL_TOKEN}, Basic x"),
        "a percent-encoded one": shown(f"Bearer %{ord(FULL_TOKEN[0]):x}{FULL_TOKEN[1:]}"),
        "twice": shown(f"Bearer {FULL_TOKEN}", f"Bearer {FULL_TOKEN}"),
        "the right one first": shown(f"Bearer {FULL_TOKEN}", "Bearer wrong"),
        "the wrong one first": shown("Bearer wrong", f"Bearer {FULL_TOKEN}"),
        "in another scheme": shown(f"Token {FULL_TOKEN}"),
        "in Basic": shown(f"Basic {BASIC}"),
        "in Basic, by name": shown(f"Basic {FULL_TOKEN}"),
        "in Digest": shown(f'Digest username="{FULL_TOKEN}"'),
        "Negotiate": shown("Negotiate YII="),
        "in another script": shown("Bearer ключ"),
        "in bytes that are no text": shown("Bearer WRONG").replace(b"WRONG", b"\xff\xfe\x80"),
        "a very long one": shown("Bearer " + "x" * 8000),
        "very many spaces": shown("Bearer" + " " * 8000 + "!"),
        "in the query": request(target=f"/api/jobs?access_token={FULL_TOKEN}"),
        "in the query by another name": request(target=f"/api/jobs?token={FULL_TOKEN}"),
        "in a cookie": request("POST", "/api/jobs", f"Cookie: shellrunner-PORT={FULL_TOKEN}"),
        "in a cookie by another name": request(
            "POST", "/api/jobs", f"Cookie: token={FULL_TOKEN}; Authorization={FULL_TOKEN}"
        ),
        "for a proxy": request("POST", "/api/jobs", f"Proxy-Authorization: Bearer {FULL_TOKEN}"),
        "in a header of others": request(
            "POST", "/api/jobs", f"X-API-Key: {FULL_TOKEN}", f"X-Auth-Token: {FULL_TOKEN}"
        ),
        "in a body": request(
            kind="Content-Type: application/x-www-form-urlencoded", body=f"access_token={FULL_TOKEN}".encode()
        ),
        "for what is nowhere": looking("/api/none"),
        "for what is nowhere at all": looking("/.git/config"),
        "for the description": looking("/api/openapi.json"),
        "for the index": looking("/api"),
        "to ask what is allowed": looking("/api/jobs", verb="OPTIONS"),
    },
    "400 bad-request": {
        "with NUL": shown(f"Bearer {FULL_TOKEN}\0"),
        "in a fold": shown(f"Bearer\r\n {FULL_TOKEN}"),
    },
}


@pytest.mark.parametrize(("sent", "answer"), rows(WRONG))
async def test_what_is_no_token(guarded: Target, sent: bytes, answer: str) -> None:
    """Anything but one valid token in the right header is 401 and starts nothing."""
    outcome = await check_held(guarded, sent, answer)
    if answer.startswith("401"):
        assert outcome.only.one("WWW-Authenticate").startswith('Bearer realm="shellrunner"')
        await check_audited(guarded, outcome)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
async def test_the_scheme_in_any_case(guarded: Target, scheme: str) -> None:
    """The scheme is case-insensitive, and may be followed by several spaces."""
    assert (await guarded.ask(looking("/api/jobs", f"Authorization: {scheme} {FULL_TOKEN}"))).status == 200


async def test_a_flood_of_wrong_tokens(guarded: Target) -> None:
    """Wrong tokens are soon 429, while a valid one from the same address is accepted."""
    near = "127.9.9.9"

    async def wrong(number: int) -> str:
        reply = (await guarded.send(shown(f"Bearer wrong{number}"), near)).only
        assert reply.status == 401 or int(reply.one("Retry-After")) > 0
        return reply.short

    async def right() -> str:
        return (await guarded.send(looking("/api", bearer(FULL_TOKEN)), near)).only.short

    before = await guarded.state()
    answers = await asyncio.gather(*(wrong(number) for number in range(60)), *(right() for _ in range(20)))
    assert set(answers[:60]) == {"401 token-needed", "429 too-many-wrong-tokens"}
    assert answers.count("429 too-many-wrong-tokens") > 40
    assert set(answers[60:]) == {"200"}
    assert await guarded.state() == before


# Scopes


def plain(path: str) -> str:
    """Return a path of the route table without the patterns of its variables."""
    return re.sub(r"\{(\w+):[^/]*\}(?=/|$)", r"{\1}", path)


async def test_every_route_has_an_access_level(tmp_path: Path) -> None:
    """The router has exactly the routes of the table, so that none is without an access level."""
    expected = {(row.verb, plain(row.path), row.handler) for row in ROUTES}
    expected |= {("HEAD", path, handler) for verb, path, handler in expected if verb == "GET"}
    async with web.serving(tmp_path) as site:
        routes = site.app.router.routes()
        found = {(each.method, each.resource and each.resource.canonical, each.handler) for each in routes}
    assert found == expected


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def victims(guarded: Target) -> AsyncIterator[list[int]]:
    """Yield the ids of a running job with open standard input, and of one that is done."""
    body = json.dumps({"command": "cat", "stdin": {"stream": True}}).encode()
    running = json.loads((await guarded.ask(request("POST", "/api/jobs", *guarded.own, body=body))).body)["job_id"]

    async def runs() -> bool:
        reply = await guarded.ask(looking(f"/api/statuses/{running}", *guarded.own))
        return bool(json.loads(reply.body)["state"] == "running")

    await until(runs)
    done = await guarded.start()
    guarded.canary.unlink()
    yield [running, done]


CLOSED = [row for row in ROUTES if row.access not in (Access.PUBLIC, Access.HOST_CHECKED)]
each_closed = pytest.mark.parametrize("row", CLOSED, ids=lambda row: f"{row.verb} {row.path}")

BODIES = {
    "signal": b'{"signal":"SIGKILL"}',
    "stdin": b"x\n",
    "pause": b"",
    "resume": b"",
    "cancel": b"",
    "session": b"",
}


def asked(row: Route, job: int, *headers: str, verb: str | None = None, **more: Any) -> bytes:
    """Return a request that would succeed with permission."""
    path = re.sub(
        r"\{(\w+)[^/]*",
        lambda part: {"id": str(job), "number": "1", "keeper": "999999"}.get(part[1], "default"),
        row.path,
    )
    if row.verb == "DELETE" and row.path == "/api/jobs":
        path += "?confirm=true"
    body = BODIES.get(path.rpartition("/")[2], JOB) if row.verb == "POST" else b""
    return request(verb or row.verb, path, *headers, **{"body": body, **more})


@pytest.mark.heavy
@each_closed
async def test_without_the_scope(guarded: Target, victims: list[int], row: Route) -> None:
    """On each route a token without the scope is 403 and names it, no token is 401, and nothing is changed."""
    needed = REQUIRED_SCOPES.get(row.access, ())
    lacking = {
        token: next(scope for scope in needed if scope not in scopes.split())
        for scopes, token in EACH_SCOPE.items()
        if not {*needed} <= {*scopes.split()}
    }
    assert bool(lacking) == bool(needed)
    verbs = ("GET", "HEAD") if row.verb == "GET" else (row.verb,)
    for verb, job in ((verb, job) for verb in verbs for job in victims):
        problem = " " if verb == "HEAD" else " insufficient-scope"
        for token, scope in lacking.items():
            outcome = await check_held(guarded, asked(row, job, bearer(token), verb=verb), f"403{problem}".strip())
            assert f'error="insufficient_scope", scope="{scope}"' in outcome.only.one("WWW-Authenticate")
        for headers in ((), (bearer("wrong"),), (f"Cookie: shellrunner-PORT={FULL_TOKEN}",)):
            answer = "401" if verb == "HEAD" else "401 token-needed"
            await check_held(guarded, asked(row, job, *headers, verb=verb), answer)


@each_closed
async def test_with_the_scope(guarded: Target, row: Route) -> None:
    """On each route, with a job that does not exist, a token with the scope is neither 401 nor 403."""
    needed = {*REQUIRED_SCOPES.get(row.access, ("admin",))}
    token = next(token for scopes, token in EACH_SCOPE.items() if needed <= {*scopes.split()})
    sent = asked(row, 999_999, bearer(token), verb="HEAD" if row.verb == "GET" else None)
    for harmful, harmless in ((b"?confirm=true", b""), (b"touch canary", b"true;;;;;;;;"), (b"/default/", b"/none/")):
        sent = sent.replace(harmful, harmless)
    try:
        assert (await guarded.ask(sent)).status not in (401, 403)
    finally:
        if row.path == "/api/queues/pause":
            await guarded.ask(looking("/api/queues/resume", *guarded.own, verb="POST"))

    async def ended() -> bool:
        reply = await guarded.ask(looking("/api/jobs?state=queued,running&fields=command", *guarded.own))
        return b"true;" not in reply.body

    await until(ended, what="the job that was allowed has ended: the next test looks for changes")


# Sessions


async def begun(target: Target, *headers: str) -> SimpleCookie:
    """Return the cookie of a new session."""
    reply = await target.ask(looking("/api/session", bearer(EACH_SCOPE["read"]), *headers, verb="POST"))
    assert reply.short == "204"
    return SimpleCookie(reply.one("Set-Cookie"))


def brought(cookie: SimpleCookie) -> str:
    """Return the header with which a browser sends a cookie."""
    (morsel,) = cookie.values()
    return f"Cookie: {morsel.key}={morsel.value}"


@each_closed
async def test_a_session_is_for_watching(guarded: Target, victims: list[int], row: Route) -> None:
    """On each route a session cookie allows reading statuses, their streams and output, and nothing else."""
    cookie = brought(await begun(guarded))
    for job in victims:
        if row.access is Access.WATCH:
            allowed = (200, 409) if row.path.endswith("}/usage") else (200, 303)  # 409: the job does not run
            assert (await guarded.ask(asked(row, job, cookie, verb="HEAD"))).status in allowed
            await check_held(guarded, asked(row, job, cookie, verb="POST"), "401 token-needed")
            await check_held(guarded, asked(row, job, cookie, verb="DELETE"), "401 token-needed")
        else:
            await check_held(guarded, asked(row, job, cookie), "401 token-needed")


async def test_session_fixation(guarded: Target) -> None:
    """A session never gets a value that the client chose (session fixation)."""
    planted = "shellrunner-PORT=planted-by-somebody-else"
    cookie = await begun(guarded, f"Cookie: {planted}")
    (morsel,) = cookie.values()
    assert morsel.key == f"shellrunner-{guarded.port}"
    assert morsel.value not in ("planted-by-somebody-else", EACH_SCOPE["read"], hash_secret(EACH_SCOPE["read"]))
    assert morsel.value != next(iter((await begun(guarded)).values())).value
    await check_held(guarded, looking("/api/statuses", f"Cookie: {planted}"), "401 token-needed")


@pytest.mark.parametrize("row", [row for row in CLOSED if row.access is Access.WATCH], ids=lambda row: row.path)
async def test_a_session_of_another_site(guarded: Target, victims: list[int], row: Route) -> None:
    """A cookie in a request from a page of another site is rejected."""
    cookie = brought(await begun(guarded))
    await check_held(guarded, asked(row, victims[0], cookie, "Origin: http://evil.test"), "403 cross-site")
    await check_held(guarded, asked(row, victims[0], cookie, "Sec-Fetch-Site: same-site"), "403 cross-site")


async def test_a_session_beside_a_wrong_token(guarded: Target) -> None:
    """A cookie does not replace a wrong token or a wrong Host, nor does the cookie of another port."""
    cookie = brought(await begun(guarded))
    await check_held(guarded, looking("/api/statuses", cookie, bearer("wrong")), "401 token-needed")
    await check_held(guarded, looking("/api/statuses", cookie, host="Host: evil.test"), "421 wrong-host")
    await check_held(
        guarded, looking("/api/statuses", cookie.replace("shellrunner-", "shellrunner-1")), "401 token-needed"
    )
    await check_held(
        guarded, looking("/api/statuses", cookie.replace("shellrunner-", "Shellrunner-")), "401 token-needed"
    )


async def test_a_session_that_was_ended(guarded: Target) -> None:
    """After the token ended its sessions their cookies are rejected; another token ends only its own."""
    cookie = brought(await begun(guarded))
    for token, status in ((EACH_SCOPE["run"], 200), (EACH_SCOPE["read"], 401)):
        ended = await guarded.ask(looking("/api/session", bearer(token), verb="DELETE"))
        assert ended.status == 204
        assert (await guarded.ask(looking("/api/statuses", cookie))).status == status
