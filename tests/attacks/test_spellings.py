"""Other spellings of a path, and other protocols: refused before anything is decided about the request.

In the test's own process, with both of aiohttp's parsers: without its compiled modules it uses the one in Python.
"""

import itertools
import re
from collections.abc import AsyncIterator, Iterable

import pytest
import pytest_asyncio
from aiohttp import http_parser, web_protocol

from tests.support.site import Site, serving

pytestmark = pytest.mark.asyncio(loop_scope="session")

HOST = "Host: localhost:PORT\r\n"
PARSERS = {"C": http_parser.HttpRequestParser, "Python": http_parser.HttpRequestParserPy}


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=PARSERS)
async def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """Yield a site without tokens whose connections have this parser."""
    assert PARSERS["C"] is not PARSERS["Python"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web_protocol, "HttpRequestParser", PARSERS[request.param])
        async with serving(tmp_path_factory.mktemp("site")) as running:
            yield running


async def status(site: Site, sent: str) -> str:
    """Return the status of the one response to these bytes, behind which the connection ends."""
    answer = await site.raw(sent)
    (head,) = [line for line in answer.decode("latin-1").split("\r\n") if line.startswith("HTTP/1.")]
    return head.split(" ")[1]


async def statuses(site: Site, targets: Iterable[str], headers: str = HOST) -> dict[str, str]:
    """Return the status of each of these targets."""
    end = f"{headers}Connection: close\r\n\r\n"
    return {target: await status(site, f"GET {target} HTTP/1.1\r\n{end}") for target in targets}


SPELLINGS = (
    # letters, digits and marks that need no encoding (RFC 3986, 6.2.2.2)
    "/%61pi/jobs", "/api/%6Aobs", "/api/%6aobs", "/%61%70%69/%6a%6f%62%73", "/%61pi?", "/api/jobs/%31",
    "/he%61lthz",
    "/api/jobs%2E", "/api/%2D", "/api/%5F", "/api/%7E",
    # an encoding in lower case, or none at all
    "/api/queues/%d0%b6/pause", "/api/jobs%3f", "/api/jobs%", "/api/jobs%4", "/api/jobs%zz", "/api/jobs%u0061",
    "/api/jobs%%", "/api/jobs%2", "/api/%ff", "/api/%C3%28", "/api/%C0%AF", "/api/%ED%A0%80", "/api/%C2%AD",
    "/api/%E2%80%8B",
    # an encoding of what separates
    "/api%2Fjobs", "/api%2fjobs", "/api%5Cjobs", "/api%5cjobs", "/api/jobs%3Bx", "/api%252Fjobs",
    "/%2561pi/jobs",
    "/api/jobs%00", "/api/jobs%0A", "/api/jobs%0d%0aSet-Cookie:%20a=b", "/api/jobs%7F", "/api/jobs%09",
    # segments that a proxy merges or removes
    "//", "//api", "//api/jobs", "//localhost:PORT/api/jobs", "/api//jobs", "/api/jobs//", "/api/./jobs",
    "/./api/jobs",
    "/api/x/../jobs", "/api/jobs/.", "/api/jobs/..", "/..", "/.", "/healthz/../api/jobs",
    "/favicon.ico/../api/jobs",
    "/%2e%2e/api/jobs", "/%2E%2E/api/jobs", "/.%2E/api/jobs", "/healthz/%2e%2e/api/jobs",
    "/healthz%2f..%2fapi/jobs",
    "/docs//", "/docs/../api/jobs", "/docs/tutorial//", "/assets/x/..", "/healthz//",
    "/http://localhost:PORT/api/jobs",
    # parameters, and the other slash
    "/api/jobs;", "/api/jobs;x=1", "/api;x/jobs", "/api/jobs;jsessionid=1", "/;/api", "/api\\jobs",
    "/api/jobs\\", "/\\api",
    "/..;/api/jobs",
    # the other forms of a target (RFC 9112, 3.2)
    "http://localhost:PORT/api/jobs", "http://localhost:PORT", "HTTP://localhost:PORT/api", "localhost:PORT",
    "*", "api",
    "https://localhost:PORT/api", "ws://localhost:PORT/api", "?", "?/api", "/api#", "/api#x", "/api?#",
)  # fmt: skip
# Well spelled, but nothing is there: the same everywhere else.
UNKNOWN = (
    "/api/", "/api/jobs/", "/api/jobs/012", "/api/jobs/+12", "/api/jobs/-1", "/api/jobs/1.", "/api/jobs/1_0",
    "/api/jobs/0x1",
    "/api/jobs/%D9%A1", "/api/jobs/%EF%BC%91", "/api/jobs/%20", "/api/jobs/1%20", "/api/jobs.", "/api/jobs...",
    "/API",
    "/healthz/", "/readyz/", "/metrics/", "/llms.txt/", "/api/queues/%D0%B6/nothing", "/@localhost/api",
    "/:80/api",
    "/api/jobs/%EF%BC%91%EF%BC%92", "/api/jobs/१२",
)  # fmt: skip


async def test_another_spelling_of_a_path_is_refused(site: Site) -> None:
    """It is 400 before the Host and the Origin are checked, so that no rule for a path is avoided, not a proxy's."""
    foreign = "Host: evil.test\r\nOrigin: http://evil.test\r\n"
    assert await statuses(site, SPELLINGS, foreign) == dict.fromkeys(SPELLINGS, "400")


async def test_a_path_of_nothing_is_not_found(site: Site) -> None:
    """What is well spelled, but no path of ours, is 404; what is not ASCII must be encoded first."""
    expected = {target: "404" if target.isascii() else "400" for target in UNKNOWN}
    assert await statuses(site, UNKNOWN) == expected


async def test_each_path_has_its_one_spelling(site: Site) -> None:
    """The paths themselves work, whatever is in their query, and so does a name that must be encoded."""
    expected = {
        "/": "200", "/healthz": "200", "/api": "200", "/api?": "200", "/api/jobs?limit=1": "200",
        "/api/jobs?q=%2f..%2F%61;x//": "200", "/docs": "308",
    }  # fmt: skip
    assert await statuses(site, expected) == expected
    answer = await site.ask("POST", "/api/queues/%D0%B6%D1%83%D0%BA/pause")
    assert answer.json["type"] == "/problems/no-such-queue"


PROTOCOLS = (
    "RTSP/1.0", "RTSP/1.1", "RTSP/2.0", "ICE/1.0", "ICY", "ICY/1.0", "SIP/2.0", "HTTP/0.9", "HTTP/1.2",
    "HTTP/1.9", "HTTP/2.0",
    "HTTP/2", "HTTP/3.0", "HTTP/1.10", "HTTP/01.1", "HTTP/1,1", "HTTP/1.", "HTTP/.1", "HTTP/1", "HTTP",
    "http/1.1", "Http/1.1",
    "HTTPS/1.1", "HTTP/1.1 ", " HTTP/1.1", "HTTP/ 1.1", "HTTP /1.1", "HTTP/1.1 HTTP/1.1", "HTTP/1.١",
    "HTTP/1.1\t", "HTTP/1.1\0",
    "SHTTP/1.1", "RTSP/1.0 HTTP/1.1", "HTTP/-1.1", "HTTP/+1.1", "XTP/1.1", "",
)  # fmt: skip


@pytest.mark.parametrize("headers", [HOST, ""], ids=["Host", "no Host"])
async def test_another_protocol_is_refused(site: Site, headers: str) -> None:
    """Another protocol or version of HTTP is 400 and ends the connection, so that the next request is not read."""
    behind = f"GET /healthz HTTP/1.1\r\n{HOST}\r\n"
    got = {
        protocol: await status(site, f"{verb} /healthz {protocol}\r\n{headers}\r\n{behind}")
        for protocol, verb in zip(PROTOCOLS, itertools.cycle(["GET", "OPTIONS", "POST"]), strict=False)
    }
    assert got == dict.fromkeys(PROTOCOLS, "400")


@pytest.mark.parametrize("expected", ["x", "100-continue", "\xff"])
async def test_nothing_is_answered_before_the_protocol(site: Site, expected: str) -> None:
    """Whatever a request expects, its version is refused first, and no answer claims a version but HTTP/1.1."""
    for version in ("0.9", "1.2", "2.0", "3.0", "9.9"):
        for verb in ("GET", "POST"):
            head = f"{verb} /api/jobs HTTP/{version}\r\n{HOST}Expect: {expected}\r\nContent-Length: 2\r\n\r\n{{}}"
            answer = await site.raw(head)
            assert answer.startswith(b"HTTP/1.1 400 "), (version, answer)
            assert answer.count(b"HTTP/1.1 ") == 1
            assert b"the protocol must be HTTP/1.0 or HTTP/1.1" in answer


async def test_what_begins_otherwise_is_refused(site: Site) -> None:
    """The preface of HTTP/2, a request of HTTP/0.9 and a ClientHello get one response, then the connection ends."""
    for start in ("PRI * HTTP/2.0\r\n\r\nSM", "GET /", "GET", "SOURCE /api ICE/1.0", "\x16\x03\x01"):
        assert await status(site, f"{start}\r\n\r\n") == "400", start


GOOD = {
    "nothing": "",
    "a request": f"GET /healthz HTTP/1.1\r\n{HOST}\r\n",
    "three requests": f"GET /healthz HTTP/1.1\r\n{HOST}\r\n" * 3,
    "empty lines": f"\r\n\r\nGET /healthz HTTP/1.1\r\n{HOST}\r\n\r\n\r\n",
    "a body": f"POST /healthz HTTP/1.1\r\n{HOST}Content-Length: 24\r\n\r\nGET / RTSP/1.0\r\nA: b\r\n\r\n",
    "an upgrade": f"GET /healthz HTTP/1.1\r\n{HOST}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
}


@pytest.mark.parametrize("before", GOOD.values(), ids=GOOD)
async def test_another_protocol_behind_good_requests_is_refused(site: Site, before: str) -> None:
    """Each request line of a connection is checked; the requests before it are answered as ever."""
    expected = before.count("Host")
    bad = f"GET /healthz RTSP/1.0\r\n{HOST}\r\n"
    answer = await site.raw(before + bad + GOOD["a request"])
    starts = re.findall(rb"HTTP/1\.[01] ([0-9]+) ", answer)
    assert starts == [b"200", b"405"][bool("POST" in before) :][:1] * expected + [b"400"]
    assert answer.count(b"the protocol must be HTTP/1.0 or HTTP/1.1") == 1
