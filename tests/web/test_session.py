"""POST and DELETE /api/session, and what its cookie is good for."""

import asyncio
import hashlib
import ssl
import subprocess
from collections.abc import AsyncIterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest

from shellrunner.web import ROUTES
from shellrunner.web.app_keys import AUTHENTICATOR, SETTINGS
from shellrunner.web.http.streaming import STREAMS
from shellrunner.web.route import Access
from tests.support.site import Answer, Site, serving
from tests.support.waiting import until

from .test_guard import check_problem, example

SECRETS = {"ci": ["read", "run", "admin"], "looker": ["read"], "runner": ["run"]}
TOKENS = [
    {"name": name, "sha256": hashlib.sha256(f"srt_{name}".encode()).hexdigest(), "scopes": scopes}
    for name, scopes in SECRETS.items()
]
AUTH = {"tokens": TOKENS, "session_cookie": True, "tokens_file": None}


def bearer(name: str = "ci", **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer srt_{name}", **more}


def cookie_of(answer: Answer) -> dict[str, str]:
    (line,) = answer.headers.getall("Set-Cookie")
    ((name, morsel),) = SimpleCookie(line).items()
    return {"Cookie": f"{name}={morsel.value}"}


@pytest.fixture
async def closed(tmp_path: Path) -> AsyncIterator[Site]:
    """A site that needs a token, and has sessions."""
    async with serving(tmp_path, auth=AUTH) as running:
        yield running


async def begun(site: Site, name: str = "ci") -> dict[str, str]:
    answer = await site.ask("POST", "/api/session", headers=bearer(name))
    assert (answer.status, answer.body) == (204, b"")
    return cookie_of(answer)


async def test_the_cookie_is_as_narrow_as_cookies_can_be(closed: Site) -> None:
    """HttpOnly, SameSite=Strict, for /api/statuses only, for 12 hours, named with the port, and not the token."""
    answer = await closed.ask("POST", "/api/session", headers=bearer())
    (line,) = answer.headers.getall("Set-Cookie")
    pair, *attributes = line.split("; ")
    name, _, value = pair.partition("=")
    assert name == f"shellrunner-{closed.port}"
    assert len(value) >= 43
    assert "srt_" not in value
    assert set(attributes) == {"HttpOnly", "SameSite=Strict", "Path=/api/statuses", "Max-Age=43200"}
    assert answer.headers["Cache-Control"] == "no-store"


async def test_the_cookie_is_secure_where_the_browser_came_by_tls(tmp_path: Path) -> None:
    """To a proxy, which its Origin shows; here too, but not over plain HTTP."""
    origin = "https://jobs.example.org"
    async with serving(tmp_path, auth=AUTH, server={"origins": [origin]}) as site:
        for headers, is_secure in (
            ({"Host": "jobs.example.org", "Origin": origin}, True),
            ({"Origin": f"http://127.0.0.1:{site.port}"}, False),
            ({}, False),
        ):
            answer = await site.ask("POST", "/api/session", headers=bearer(**headers))
            assert answer.status == 204
            assert ("; Secure" in answer.headers["Set-Cookie"]) == is_secure


async def test_the_cookie_is_secure_under_tls(closed: Site, tmp_path: Path) -> None:
    """Whatever the Origin."""
    both = tmp_path / "both.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -days 2"
    subprocess.run([*command.split(), "-keyout", both, "-out", both], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(both)
    server = closed.runner.server
    assert server is not None
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0, ssl=context)
    port = listener.sockets[0].getsockname()[1]
    url = f"https://127.0.0.1:{port}/api/session"
    async with closed.session.post(url, headers=bearer(), ssl=False) as answer:
        assert answer.status == 204
        assert answer.headers["Set-Cookie"].startswith(f"shellrunner-{port}=")
        assert "; Secure" in answer.headers["Set-Cookie"]
    listener.close()


async def test_the_cookie_is_good_for_statuses_and_their_streams_only(closed: Site) -> None:
    """It is enough for what is for watchers, with GET and HEAD; all else asks for a token as if there were none."""
    await closed.ask("POST", "/api/jobs", json={"command": "true"}, headers=bearer())
    cookie = await begun(closed)
    watched = 0
    for row in ROUTES:
        if row.access in (Access.PUBLIC, Access.HOST_CHECKED):
            continue
        path = example(row.path)
        if row.access is Access.WATCH:
            watched += 1
            for verb in ("HEAD", "GET"):
                async with closed.session.request(
                    verb, f"http://127.0.0.1:{closed.port}{path}", headers=cookie, allow_redirects=False
                ) as answer:
                    assert answer.status == 200, (verb, path)
        else:
            answer = await closed.ask(row.verb, path, headers=cookie)
            check_problem(answer, 401)
            assert answer.headers["WWW-Authenticate"] == 'Bearer realm="shellrunner"'
    assert watched == 5
    assert (await closed.get("/api/jobs", headers=bearer())).json["jobs"][0]["job_id"] == 1


@pytest.mark.parametrize("verb", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_no_other_verb_is_let_in_by_it(closed: Site, verb: str) -> None:
    """Not even where it is good: whatever is not a look needs the token."""
    cookie = await begun(closed)
    for path in ("/api/statuses", "/api/statuses/1/events"):
        check_problem(await closed.ask(verb, path, headers=cookie), 401)


async def test_a_wrong_token_is_not_made_good_by_a_cookie(closed: Site) -> None:
    """Whoever shows a token is judged by it."""
    cookie = await begun(closed)
    assert (await closed.get("/api/statuses", headers=cookie)).status == 200
    check_problem(await closed.get("/api/statuses", headers=cookie | bearer("wrong")), 401)


async def test_a_cookie_under_another_ports_name_is_none(closed: Site) -> None:
    """What another service of this host has set is not taken for ours."""
    value = (await begun(closed))["Cookie"].partition("=")[2]
    for name in ("shellrunner", f"shellrunner-{closed.port + 1}", "session"):
        check_problem(await closed.get("/api/statuses", headers={"Cookie": f"{name}={value}"}), 401)


@pytest.mark.parametrize("value", ["", "x", "x" * 5000, '"', "%00", "a=b", "{port}"])
async def test_an_odd_cookie_is_none(closed: Site, value: str) -> None:
    """401, and never an error."""
    await begun(closed)
    cookie = {"Cookie": f"shellrunner-{closed.port}={value}; ; =; x"}
    check_problem(await closed.get("/api/statuses", headers=cookie), 401)


async def test_delete_ends_all_sessions_of_the_token(closed: Site) -> None:
    """Their cookies and open streams too, within a heartbeat; those of another token go on. It may be said again."""
    closed.app[STREAMS].heartbeat = 0.1
    cookies, other = [await begun(closed), await begun(closed)], await begun(closed, "looker")
    url = f"http://127.0.0.1:{closed.port}/api/statuses/events"
    async with (
        closed.session.get(url, headers=cookies[0]) as mine,
        closed.session.get(url, headers=other) as others,
    ):
        assert (mine.status, others.status) == (200, 200)
        for _ in range(2):
            answer = await closed.ask("DELETE", "/api/session", headers=bearer())
            assert (answer.status, answer.body) == (204, b"")
            assert "Max-Age=0" in answer.headers["Set-Cookie"]
        await until(lambda: closed.app[STREAMS].count().total() == 1)
        for cookie in cookies:
            check_problem(await closed.get("/api/statuses", headers=cookie), 401)
        assert (await closed.get("/api/statuses", headers=other)).status == 200
        assert await others.content.readany()


@pytest.mark.parametrize("shown", ["token", "cookie"])
async def test_a_revoked_token_ends_its_streams_within_a_heartbeat(closed: Site, shown: str) -> None:
    """Whether they were opened with the token or with a cookie; those of another token go on."""
    closed.app[STREAMS].heartbeat = 0.1
    headers = bearer() if shown == "token" else await begun(closed)
    url = f"http://127.0.0.1:{closed.port}/api/statuses/events"
    async with (
        closed.session.get(url, headers=headers) as mine,
        closed.session.get(url, headers=bearer("looker")) as others,
    ):
        assert (mine.status, others.status) == (200, 200)
        door = closed.app[AUTHENTICATOR]
        door.reload(without(closed, "ci"))
        await until(lambda: closed.app[STREAMS].count().total() == 1)
        check_problem(await closed.get("/api/statuses", headers=headers), 401)
        assert await others.content.readany()


def without(site: Site, name: str) -> Any:
    auth = site.app[SETTINGS].auth
    return auth.model_copy(update={"tokens": [token for token in auth.tokens if token.name != name]})


async def test_a_token_that_may_not_read_begins_no_session(closed: Site) -> None:
    """The scope that it lacks is named."""
    answer = await closed.ask("POST", "/api/session", headers=bearer("runner"))
    check_problem(answer, 403)
    assert answer.json["scope"] == "read"


async def test_no_session_begins_without_a_token(closed: Site) -> None:
    """Neither with none, nor with a cookie."""
    for headers in ({}, await begun(closed)):
        for verb in ("POST", "DELETE"):
            check_problem(await closed.ask(verb, "/api/session", headers=headers), 401)


async def test_without_tokens_both_do_nothing(site: Site) -> None:
    """204, and no cookie: whoever is let in needs none."""
    for verb in ("POST", "DELETE"):
        answer = await site.ask(verb, "/api/session")
        assert (answer.status, answer.body) == (204, b"")
        assert "Set-Cookie" not in answer.headers
    assert await site.store.sessions() == []


async def test_there_is_none_unless_config_allows_it(tmp_path: Path) -> None:
    """As shipped: 403 that names the setting; to end what there is not is no mistake."""
    async with serving(tmp_path, auth={"tokens": TOKENS, "tokens_file": None}) as site:
        answer = await site.ask("POST", "/api/session", headers=bearer())
        check_problem(answer, 403)
        assert answer.json["type"] == "/problems/sessions-off"
        assert "auth.session_cookie" in answer.json["detail"]
        assert (await site.ask("DELETE", "/api/session", headers=bearer())).status == 204
        assert await site.store.sessions() == []


async def test_a_page_of_another_site_begins_no_session(closed: Site) -> None:
    """Its Origin is refused before anything is looked at."""
    headers = bearer(Origin="https://evil.example")
    check_problem(await closed.ask("POST", "/api/session", headers=headers), 403)
