"""The security middleware: every route with wrong methods, Hosts, origins, types and targets."""

import itertools
import logging
import re

import pytest

from shellrunner.errors import ShellrunnerError
from shellrunner.machine import machine_digest
from shellrunner.web import ROUTES
from shellrunner.web.app_keys import NotReady
from shellrunner.web.http.accept import accepts
from shellrunner.web.http.problems import STATUSES
from tests.support.site import Answer, Site

POST = "POST /api/jobs HTTP/1.1\r\nHost: localhost:PORT\r\nConnection: close\r\nContent-Type: application/json\r\n"


def check_problem(answer: Answer, status: int, request: str = "") -> None:
    assert answer.status == status, (request, answer.body)
    assert answer.headers["Content-Type"] == "application/problem+json; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json["status"] == status
    code = answer.json["type"].removeprefix("/problems/")
    assert STATUSES[code] == status
    assert answer.json["title"]
    assert answer.json["detail"]
    check_security_headers(answer)


def check_security_headers(answer: Answer) -> None:
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert answer.headers["Server"] == "shellrunner"


def example(path: str) -> str:
    """Return a path of a route, with an existing job or queue."""
    return re.sub(r"\{(\w+)(:[^/]*)?\}(?=/|$)", lambda found: "default" if found[1] == "name" else "1", path)


def paths() -> list[str]:
    return sorted({example(route.path) for route in ROUTES})


def api_paths() -> list[str]:
    found = [path for path in paths() if path.startswith("/api")]
    assert len(found) > 20
    return found


@pytest.mark.heavy
@pytest.mark.parametrize("path", paths())
async def test_verbs(site: Site, path: str) -> None:
    """Every path answers OPTIONS with 204, HEAD where it answers GET, and any other verb with 405; all with Allow."""
    await site.done(b"x")
    verbs = {route.verb for route in ROUTES if example(route.path) == path}
    allowed = verbs | {"OPTIONS"} | ({"HEAD"} if "GET" in verbs else set())
    options = await site.ask("OPTIONS", path)
    assert options.status == 204
    assert set(options.headers["Allow"].split(", ")) == allowed
    check_security_headers(options)
    for verb in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE"} - allowed:
        answer = await site.ask(verb, path)
        assert set(answer.headers["Allow"].split(", ")) == allowed
        if verb != "HEAD":
            check_problem(answer, 405)
    if "GET" in verbs and path != "/api/statuses/events":  # which has no end
        got, head = await site.get(path), await site.ask("HEAD", path)
        assert (head.status, head.body) == (got.status, b"")
        assert head.headers["Content-Type"] == got.headers["Content-Type"]
        check_security_headers(got)
        check_security_headers(head)


async def test_unknown_parameter(site: Site) -> None:
    """An unknown parameter is 400 and named in the problem, on every route under /api."""
    asked = 0
    for route in ROUTES:
        if route.path.startswith("/api"):
            answer = await site.ask(route.verb, f"{example(route.path)}?nonsense=1")
            check_problem(answer, 400)
            assert answer.json["parameter"] == "nonsense", route
            asked += 1
    assert asked > 20


@pytest.mark.parametrize(
    ("host", "status"),
    [("evil.example:PORT", 421), ("localhost", 421), ("localhost:1", 421), ("127.0.0.1:PORT.", 421), ("", 421)],
)
async def test_host(site: Site, host: str, status: int) -> None:
    """A Host that is not this server's own is 421 on every route under /api."""
    for path in api_paths():
        got = await site.raw(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
        assert got.startswith(f"HTTP/1.1 {status} ".encode()), path
        assert b"/problems/wrong-host" in got, path


@pytest.mark.parametrize("host", ["localhost:PORT", "127.0.0.1:PORT", "[::1]:PORT", "LocalHost:PORT"])
async def test_own_host(site: Site, host: str) -> None:
    """The three loopback names with the port that was bound are this server."""
    got = await site.raw(f"GET /api HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        ("GET /api HTTP/1.1\r\n\r\n", 421),
        ("GET /api HTTP/1.1\r\nHost: localhost:PORT\r\nHost: localhost:PORT\r\n\r\n", 421),
        ("GET /api HTTP/1.0\r\n\r\n", 421),
        ("GET /api HTTP/1.0\r\nHost: localhost:PORT\r\n\r\n", 200),
        ("GET http://localhost:PORT/api HTTP/1.1\r\nHost: localhost:PORT\r\nConnection: close\r\n\r\n", 400),
        ("GET /api HTTP/1.2\r\nHost: localhost:PORT\r\nConnection: close\r\n\r\n", 400),
        ("GET /api HTTP/2.0\r\nHost: localhost:PORT\r\n\r\n", 400),
        ("OPTIONS * HTTP/1.1\r\nHost: localhost:PORT\r\nConnection: close\r\n\r\n", 400),
        ("GET /api#jobs HTTP/1.1\r\nHost: localhost:PORT\r\nConnection: close\r\n\r\n", 400),
        ("nonsense\r\n\r\n", 400),
        ("BREW /api HTTP/1.1\r\nHost: localhost:PORT\r\n\r\n", 400),
        ("GET /api HTTP/1.1\r\nHost: localhost:PORT\r\nBad Header: x\r\n\r\n", 400),
        ("GET /api HTTP/1.1\r\nHost: localhost:PORT\r\nX: " + "x" * 10000 + "\r\n\r\n", 431),
        ("GET /" + "x" * 10000 + " HTTP/1.1\r\nHost: localhost:PORT\r\n\r\n", 431),
        ("GET /api HTTP/1.1\r\nHost: localhost:PORT\r\nExpect: tea\r\nConnection: close\r\n\r\n", 417),
        ("GET /api HTTP/1.1\r\nHost: localhost:PORT\r\n" + "X: x\r\n" * 300 + "\r\n", 431),
        (
            "GET /api HTTP/1.0\r\nHost: localhost:PORT\r\nAccept: text/html\r\nAccept: */*\r\n\r\n",
            200,
        ),
        (POST + "Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello", 415),
        (POST.replace("/json", "/x") + "Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello", 415),
        (POST + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    ],
)
async def test_bad_requests(site: Site, request_head: str, status: int, caplog: pytest.LogCaptureFixture) -> None:
    """Invalid HTTP is rejected with a problem and the security headers, without an error in the log."""
    got = await site.raw(request_head)
    head, _, body = got.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")), got
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert head.split(b" ")[1] == str(status).encode(), got
    assert b"X-Content-Type-Options: nosniff" in head
    assert b"Server: shellrunner\r\n" in head
    assert b"aiohttp" not in got
    if status != 200:
        assert b"application/problem+json" in head
        assert b"/problems/" in body


@pytest.mark.parametrize(
    "request_head",
    [
        "GET /api HTTP/1.1\r\nHost: localhost:PORT\r\nAuthorization: Bearer geheim\x01\r\n\r\n",
        "GET /api HTTP/1.1\r\nHost: localhost:PORT\r\nBad Header: geheim\r\n\r\n",
        "GET /api HTTP/1.1\r\nHost: localhost:PORT\r\nCookie geheim\r\n\r\n",
        POST + 'Content-Length: 2\r\n\r\n{}{"env":{"A":"geheim"}}',
        POST.replace("Connection: close\r\n", "") + 'Content-Length: 2\r\n\r\n{}{"env":{"A":"geheim"}}\r\n\r\n',
        POST + "Transfer-Encoding: chunked\r\n\r\ngeheim\r\n",
        "GET /geheim\x01 HTTP/1.1\r\n\r\n",
        "GET /api HTTP/geheim\r\n\r\n",
        "geheim\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_not_logged(
    site: Site, request_head: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says what is wrong with an invalid request, but quotes nothing of it, which may be a secret."""
    caplog.set_level(logging.DEBUG)
    assert b" 400 " in await site.raw(request_head)
    assert "invalid HTTP request: " in caplog.text
    assert "geheim" not in caplog.text


async def test_letters_of_other_scripts_in_a_target(site: Site) -> None:
    """A target with characters that are not percent-encoded is 400 with a detail that says so."""
    got = await site.raw("GET /api/jobs?q=жук HTTP/1.1\r\nHost: localhost:PORT\r\n\r\n")
    assert b" 400 " in got
    assert b"must be percent-encoded" in got


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_probes(site: Site, path: str) -> None:
    """The probes answer under any Host and to any site; /readyz is 503 while there is a reason, and says which."""
    headers = {"Host": "evil.example", "Sec-Fetch-Site": "cross-site"}
    assert (await site.get(f"{path}?cache=no", headers=headers)).status == 200
    site.reasons.append(NotReady("crashed", "the supervisor has crashed"))
    answer = await site.get(path)
    assert answer.status == (503 if path == "/readyz" else 200)
    assert b"supervisor" not in answer.body
    assert path == "/healthz" or answer.json["reasons"] == ["crashed"]


@pytest.mark.heavy
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://localhost:{port}"},
        {"Origin": "http://localhost:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_cross_site(site: Site, headers: dict[str, str]) -> None:
    """A request from a page of another site is 403 on every path under /api."""
    sent = {name: value.format(port=site.port) for name, value in headers.items()}
    for path, verb in itertools.product([*api_paths(), "/api/none"], ("GET", "POST", "DELETE", "OPTIONS")):
        check_problem(await site.ask(verb, path, headers=sent), 403, f"{verb} {path}")


async def test_own_site(site: Site) -> None:
    """Requests from the server's own pages, and from the address bar, are accepted."""
    for headers in (
        {"Origin": f"http://127.0.0.1:{site.port}"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ):
        answer = await site.get("/api", headers=headers)
        assert answer.status == 200
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


@pytest.mark.parametrize(
    "job_id", ["0", "01", "-1", "+1", "1.0", "x", "1" * 19, "%D9%A1", "１", "1%20", "9" * 18, "1/", "1/x", ""]
)
async def test_ids(site: Site, job_id: str) -> None:
    """What is not an id, or not that of a job, is 404."""
    await site.submit()
    for path in ("jobs", "statuses", "results"):
        check_problem(await site.get(f"/api/{path}/{job_id}"), 404)


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("*/*", 200),
        ("application/json", 200),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", 200),
        ("application/*", 200),
        ("", 200),
        ("text/html", 406),
        ("application/json;q=0, */*", 406),
    ],
)
async def test_accept(site: Site, accept: str, status: int) -> None:
    """An Accept that excludes JSON is 406, and any other is not."""
    assert (await site.get("/api/jobs", headers={"Accept": accept})).status == status


@pytest.mark.parametrize(
    ("accept", "offered", "expected"),
    [
        ("text/event-stream", "text/event-stream", True),
        ("text/*;q=0.1", "text/plain", True),
        ("text/plain;q=0", "text/plain", False),
        ("*/*;q=0, text/plain", "text/plain", True),
        ("text/*;q=0, */*", "text/plain", False),
        ("text/plain;q=x", "text/plain", True),
        (";;,,", "text/plain", False),
    ],
)
def test_accepts(accept: str, offered: str, expected: bool) -> None:
    """The most specific range of an Accept decides."""
    assert accepts(accept, offered) is expected


async def test_bug(site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A bug is 500 with a fixed detail and an id that is also in the log, which alone has the traceback."""

    async def broken(_: int) -> None:
        raise RuntimeError("secret words")

    monkeypatch.setattr(site.store, "stored_job", broken)
    answer = await site.get("/api/jobs/1")
    check_problem(answer, 500)
    assert b"secret" not in answer.body
    assert b"Traceback" not in answer.body
    assert answer.json["id"] in caplog.text
    assert "secret words" in caplog.text


async def test_bug_in_a_stream(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error after a response was started aborts the connection, and never writes a second head into it."""
    job_id = await site.done(b"x" * 100_000)

    async def broken(*_: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr("shellrunner.web.http.streaming.ResponseStream.send", broken)
    for path in (f"statuses/{job_id}/events", f"results/{job_id}/stdout", f"statuses/{job_id}/output"):
        request = f"GET /api/{path} HTTP/1.1\r\nHost: localhost:PORT\r\n\r\n"
        try:
            got = await site.raw(request)
        except ConnectionResetError:
            continue
        assert got.count(b"HTTP/1.1") <= 1
        assert b" 500 " not in got


@pytest.mark.heavy
async def test_index(site: Site) -> None:
    """The index says who the client is and what it may do, and every link of it is answered with 200."""
    index = (await site.get("/api")).json
    assert index.pop("identity").startswith("uid:")
    assert index.pop("scopes") == ["admin", "read", "run"]
    assert index.pop("machine") == machine_digest()
    links = index.values()
    assert {"/api/jobs", "/api/statuses", "/api/results"} <= set(links)
    for link in links:
        assert (await site.get(link)).status == 200


def test_every_error_has_a_status() -> None:
    """Every error has a status, but for those of the start of the service."""
    family = {error.code for error in _family(ShellrunnerError)}
    assert family - STATUSES.keys() == {"config", "state-locked"}


def _family(error: type[ShellrunnerError]) -> set[type[ShellrunnerError]]:
    return {error}.union(*map(_family, error.__subclasses__()))
