"""POST and DELETE /api/session, and what the session cookie allows."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from http.cookies import SimpleCookie
from pathlib import Path

import pytest

from shellrunner.web import ROUTES
from shellrunner.web.http.streaming import STREAMS
from shellrunner.web.route import Access
from tests.support.site import Answer, Site, serving
from tests.support.tokens import hash_of, secret_of
from tests.support.waiting import until

from .test_security import check_problem, example

SECRETS = {"ci": ["read", "run", "admin"], "looker": ["read"], "runner": ["run"]}
TOKENS = [{"name": name, "hash": hash_of(name), "scopes": scopes} for name, scopes in SECRETS.items()]
AUTH = {"tokens": TOKENS, "session_cookie": True, "tokens_file": None}


def bearer(name: str = "ci", **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret_of(name)}", **more}


def cookie_of(answer: Answer) -> dict[str, str]:
    (line,) = answer.headers.getall("Set-Cookie")
    ((name, morsel),) = SimpleCookie(line).items()
    return {"Cookie": f"{name}={morsel.value}"}


@pytest.fixture
async def closed(tmp_path: Path) -> AsyncIterator[Site]:
    """Yield a site that requires a token and allows sessions."""
    async with serving(tmp_path, auth=AUTH) as running:
        yield running


async def begun(site: Site, name: str = "ci") -> dict[str, str]:
    answer = await site.ask("POST", "/api/session", headers=bearer(name))
    assert (answer.status, answer.body) == (204, b"")
    return cookie_of(answer)


async def test_the_cookie_has_the_narrowest_attributes(closed: Site) -> None:
    """The cookie is HttpOnly and SameSite=Strict, for /api/statuses and 12 hours, has the port in its name."""
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
    """The cookie is Secure if the Origin shows that the browser uses TLS to a proxy, and not over plain HTTP."""
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
    """Over TLS the cookie is Secure, and by its name taken from nobody without TLS, whatever the Origin is."""
    both = tmp_path / "both.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -days 2"
    subprocess.run([*command.split(), "-keyout", both, "-out", both], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(both)
    server = closed.runner.server
    assert server is not None
    listener = await asyncio.get_running_loop().create_server(server, sock=closed.tls_socket, ssl=context)
    port = listener.sockets[0].getsockname()[1]
    url = f"https://127.0.0.1:{port}/api/session"
    async with closed.session.post(url, headers=bearer(), ssl=False) as answer:
        assert answer.status == 204
        assert answer.headers["Set-Cookie"].startswith(f"__Secure-shellrunner-{port}=")
        assert "; Secure" in answer.headers["Set-Cookie"]
    listener.close()


async def test_the_cookie_allows_statuses_and_their_streams_only(closed: Site) -> None:
    """The cookie is enough for GET and HEAD of routes at the level WATCH; all others are 401."""
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
                    # The usage of a job that does not run is refused for that reason, not for its cookie.
                    assert answer.status == (409 if path == "/api/statuses/1/usage" else 200), (verb, path)
        else:
            refused = await closed.ask(row.verb, path, headers=cookie)
            check_problem(refused, 401)
            assert refused.headers["WWW-Authenticate"] == 'Bearer realm="shellrunner"'
    assert watched == 8
    assert (await closed.get("/api/jobs", headers=bearer())).json["jobs"][0]["job_id"] == 1


@pytest.mark.parametrize("verb", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_the_cookie_allows_no_other_method(closed: Site, verb: str) -> None:
    """The cookie is not enough for any other method, not even on the same paths."""
    cookie = await begun(closed)
    for path in ("/api/statuses", "/api/statuses/1/events"):
        check_problem(await closed.ask(verb, path, headers=cookie), 401)


async def test_a_cookie_does_not_replace_a_wrong_token(closed: Site) -> None:
    """A request with a wrong token is 401, even with a valid cookie."""
    cookie = await begun(closed)
    assert (await closed.get("/api/statuses", headers=cookie)).status == 200
    check_problem(await closed.get("/api/statuses", headers=cookie | bearer("wrong")), 401)


async def test_a_cookie_under_another_name_is_ignored(closed: Site) -> None:
    """A cookie with the right value under another name is ignored."""
    value = (await begun(closed))["Cookie"].partition("=")[2]
    for name in ("shellrunner", f"shellrunner-{closed.port + 1}", "session"):
        check_problem(await closed.get("/api/statuses", headers={"Cookie": f"{name}={value}"}), 401)


@pytest.mark.parametrize("value", ["", "x", "x" * 5000, '"', "%00", "a=b", "{port}"])
async def test_a_malformed_cookie_is_rejected(closed: Site, value: str) -> None:
    """A malformed cookie is 401, and never an error."""
    await begun(closed)
    cookie = {"Cookie": f"shellrunner-{closed.port}={value}; ; =; x"}
    check_problem(await closed.get("/api/statuses", headers=cookie), 401)


async def test_delete_ends_all_sessions_of_the_token(closed: Site) -> None:
    """DELETE ends the token's cookies at once and its streams within a heartbeat, and none of another token's."""
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
            assert answer.headers["Clear-Site-Data"] == '"cache", "storage"'
        await until(lambda: closed.app[STREAMS].count().total() == 1)
        for cookie in cookies:
            check_problem(await closed.get("/api/statuses", headers=cookie), 401)
        assert (await closed.get("/api/statuses", headers=other)).status == 200
        assert await others.content.readany()


async def test_a_token_that_may_not_read_begins_no_session(closed: Site) -> None:
    """POST with a token without `read` is 403 and names that scope."""
    answer = await closed.ask("POST", "/api/session", headers=bearer("runner"))
    check_problem(answer, 403)
    assert answer.json["scope"] == "read"


async def test_no_session_begins_without_a_token(closed: Site) -> None:
    """POST and DELETE are 401 without a token, and with a cookie."""
    for headers in ({}, await begun(closed)):
        for verb in ("POST", "DELETE"):
            check_problem(await closed.ask(verb, "/api/session", headers=headers), 401)


@pytest.mark.heavy
async def test_without_tokens_both_do_nothing(site: Site) -> None:
    """Without tokens POST and DELETE are 204 without a cookie, since none is needed."""
    for verb in ("POST", "DELETE"):
        answer = await site.ask(verb, "/api/session")
        assert (answer.status, answer.body) == (204, b"")
        assert "Set-Cookie" not in answer.headers
        assert ("Clear-Site-Data" in answer.headers) is (verb == "DELETE")
    assert await site.store.sessions() == []


async def test_sessions_are_off_by_default(tmp_path: Path) -> None:
    """By default POST is 403 and names the setting, and DELETE is 204."""
    async with serving(tmp_path, auth={"tokens": TOKENS, "tokens_file": None}) as site:
        answer = await site.ask("POST", "/api/session", headers=bearer())
        check_problem(answer, 403)
        assert answer.json["type"] == "/problems/sessions-off"
        assert "auth.session_cookie" in answer.json["detail"]
        assert (await site.ask("DELETE", "/api/session", headers=bearer())).status == 204
        assert await site.store.sessions() == []


async def test_a_page_of_another_site_begins_no_session(closed: Site) -> None:
    """A foreign Origin is 403, even with a valid token."""
    headers = bearer(Origin="https://evil.example")
    check_problem(await closed.ask("POST", "/api/session", headers=headers), 403)


async def test_cookies_of_the_same_name_do_not_lock_out(closed: Site) -> None:
    """Another server of the host may set cookies of our name: those that are no session are ignored, in any order."""
    own = (await begun(closed))["Cookie"]
    name = own.partition("=")[0]
    junk = [
        f"{name}={value}" for value in ("", "x", "é", "x" * 43, f'"{"y" * 43}"', "=", *(f"z{n}" for n in range(20)))
    ]
    for cookies in (
        [*junk, own],
        [own, *junk],
        [own, own],
        [f"{name}-x=1", own, f"x{name}=1"],
        [own.replace("=", " = ")],
    ):
        for headers in ({"Cookie": "; ".join(cookies)}, {"Cookie": ";".join(cookies)}):
            assert (await closed.get("/api/statuses", headers=headers)).status == 200, cookies
    assert (await closed.get("/api/statuses", headers={"Cookie": "; ".join(junk)})).status == 401


async def test_cookies_of_two_tokens_let_in_neither(closed: Site) -> None:
    """Where two sessions of different tokens come, it is not known which one the user began: nobody is let in."""
    one, same, other = await begun(closed), await begun(closed), await begun(closed, "looker")
    assert (await closed.get("/api/statuses", headers={"Cookie": f"{one['Cookie']}; {same['Cookie']}"})).status == 200
    for first, second in ((one, other), (other, one)):
        headers = {"Cookie": f"{first['Cookie']}; {second['Cookie']}"}
        assert (await closed.get("/api/statuses", headers=headers)).status == 401


@pytest.mark.heavy
async def test_a_cookie_of_a_server_without_tls_does_not_replace_a_secure_one(tmp_path: Path) -> None:
    """Behind a proxy with TLS, cookies without the prefix are ignored once there is one with it."""
    origin = "https://jobs.example.org"
    async with serving(tmp_path, auth=AUTH, server={"origins": [origin]}) as site:
        host = {"Host": "jobs.example.org"}
        answer = await site.ask("POST", "/api/session", headers=bearer(**host, Origin=origin))
        secure = cookie_of(answer)["Cookie"]
        assert secure.startswith(f"__Secure-shellrunner-{site.port}=")
        other = (await begun(site, "looker"))["Cookie"]
        for cookie in (secure, f"{other}; {secure}", f"{secure}; {other}"):
            assert (await site.get("/api/statuses", headers={**host, "Cookie": cookie})).status == 200
            await site.ask("DELETE", "/api/session", headers=bearer("looker"))
