"""Requests from pages of other sites: Origin, Sec-Fetch-Site, preflights, headers of proxies."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.attack import (
    FULL_TOKEN,
    Target,
    bearer,
    check_audited,
    check_held,
    looking,
    request,
    rows,
    serving,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")

OWN = "Origin: http://localhost:PORT"
APP = "https://app.example"


def submission(*headers: str) -> bytes:
    """Return the request with these headers."""
    return request("POST", "/api/jobs", *headers)


CROSS_SITE = {
    "403 cross-site": {
        "opaque": submission("Origin: null"),
        "empty": submission("Origin:"),
        "foreign": submission("Origin: http://evil.test"),
        "of no web site": submission("Origin: chrome-extension://abcdefghijklmnop"),
        "a file": submission("Origin: file://"),
        "own, another scheme": submission("Origin: https://localhost:PORT"),
        "own, another port": submission("Origin: http://localhost:1"),
        "own, no port": submission("Origin: http://localhost"),
        "own, another name of ours": submission("Origin: http://127.0.0.1:PORT"),
        "own, a longer port": submission("Origin: http://localhost:PORT0"),
        "own, a longer name": submission("Origin: http://localhost:PORT.evil.test"),
        "own within another": submission("Origin: http://localhost.evil.test:PORT"),
        "below own": submission("Origin: http://evil.localhost:PORT"),
        "own as a user": submission("Origin: http://localhost:PORT@evil.test"),
        "a user of own": submission("Origin: http://evil@localhost:PORT"),
        "own in a fragment": submission("Origin: http://evil.test#http://localhost:PORT"),
        "own with a path": submission("Origin: http://localhost:PORT/"),
        "own with a dot": submission("Origin: http://localhost.:PORT"),
        "own without a scheme": submission("Origin: localhost:PORT"),
        "own without its host": submission("Origin: http://"),
        "own, then another": submission("Origin: http://localhost:PORT http://evil.test"),
        "own, comma, another": submission("Origin: http://localhost:PORT, http://evil.test"),
        "own and another": submission(OWN, "Origin: http://evil.test"),
        "another and own": submission("Origin: null", OWN),
        "cross-site": submission("Sec-Fetch-Site: cross-site"),
        "cross-site in capitals": submission("Sec-Fetch-Site: Cross-Site"),
        "same-site": submission("Sec-Fetch-Site: same-site"),
        "of no site": submission("Sec-Fetch-Site:"),
        "of an unknown kind": submission("Sec-Fetch-Site: own-site"),
        "none, cross-site": submission("Sec-Fetch-Site: none, cross-site"),
        "none and cross-site": submission("Sec-Fetch-Site: none", "Sec-Fetch-Site: cross-site"),
        "own, but cross-site": submission(OWN, "Sec-Fetch-Site: cross-site"),
        "same-origin, but foreign": submission("Origin: http://evil.test", "Sec-Fetch-Site: same-origin"),
        "a form's post": request(
            "POST",
            "/api/jobs",
            "Origin: http://evil.test",
            "Sec-Fetch-Site: cross-site",
            "Sec-Fetch-Mode: navigate",
            kind="Content-Type: text/plain",
        ),
        "a preflight": looking(
            "/api/jobs",
            "Origin: http://evil.test",
            "Access-Control-Request-Method: POST",
            "Access-Control-Request-Private-Network: true",
            verb="OPTIONS",
        ),
        "a link": looking("/api/jobs", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"),
        "a WebSocket": looking(
            "/api/statuses/events", "Origin: http://evil.test", "Connection: Upgrade", "Upgrade: websocket"
        ),
        "what is nowhere": looking("/api/none", "Origin: http://evil.test"),
        "the metrics": looking("/metrics", "Origin: http://evil.test"),
    }
}


@pytest.mark.parametrize(("sent", "answer"), rows(CROSS_SITE))
async def test_a_request_from_another_site(alone: Target, sent: bytes, answer: str) -> None:
    """An origin that is not configured is rejected and audited, and no header lets its page read the response."""
    await check_audited(alone, await check_held(alone, sent, answer))


async def test_a_token_does_not_help(guarded: Target) -> None:
    """A valid token from a page of another site is rejected."""
    await check_held(guarded, submission("Origin: http://evil.test", bearer(FULL_TOKEN)), "403 cross-site")


@pytest.mark.parametrize(
    "header",
    [
        "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-Anything:",
        "x-forwarded-for: ::1",
        "Forwarded: for=127.0.0.1;host=localhost",
        "X-Real-IP: 127.0.0.1",
        "Via: 1.1 localhost",
        "CF-Connecting-IP: 127.0.0.1",
    ],
)
async def test_a_forwarded_request_is_not_the_proxys(alone: Target, guarded: Target, header: str) -> None:
    """A forwarding header is rejected where the uid would authenticate, and does not replace a token."""
    await check_audited(alone, await check_held(alone, submission(header), "403 not-this-user"))
    await check_held(guarded, submission(header), "401 token-needed")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def cors_enabled(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    """Yield a service whose configuration names another site's origin."""
    directory = tmp_path_factory.mktemp("cors_enabled")
    async with serving(directory, tokens=True, SERVER__CORS_ORIGINS=f'["{APP}"]') as target:
        yield target


def preflight(*headers: str) -> bytes:
    """Return a CORS preflight request."""
    return looking("/api/jobs", "Access-Control-Request-Method: POST", *headers, verb="OPTIONS")


async def test_an_allowed_origin_may_send_and_read(cors_enabled: Target) -> None:
    """A page of a configured origin may send preflights, and read all responses."""
    for sent, status in (
        (preflight(f"Origin: {APP}", "Sec-Fetch-Site: cross-site"), 204),
        (looking("/api/jobs", f"Origin: {APP}", "Sec-Fetch-Site: cross-site", bearer(FULL_TOKEN)), 200),
        (looking("/api/jobs", f"Origin: {APP}"), 401),
        (looking("/api/none", f"Origin: {APP}", bearer(FULL_TOKEN)), 404),
    ):
        reply = await cors_enabled.ask(sent)
        assert reply.status == status
        assert reply.all("Access-Control-Allow-Origin") == [APP]
        assert reply.all("Access-Control-Allow-Credentials") == []
        assert "Origin" in ", ".join(reply.all("Vary"))
    allowed = await cors_enabled.ask(preflight(f"Origin: {APP}"))
    assert set(allowed.one("Access-Control-Allow-Methods").split(", ")) >= {"GET", "POST", "DELETE"}
    assert "Authorization" in allowed.one("Access-Control-Allow-Headers").split(", ")


async def test_an_allowed_origin_may_follow(cors_enabled: Target) -> None:
    """Streaming responses name the allowed origin too, and keep their other Vary fields."""
    job = await cors_enabled.start()
    cors_enabled.canary.unlink()
    guest = (f"Origin: {APP}", bearer(FULL_TOKEN))
    for path in (f"/api/statuses/{job}/events", f"/api/statuses/{job}/output", f"/api/results/{job}/stdout"):
        reply = await cors_enabled.ask(looking(path, *guest))
        assert (reply.status, reply.all("Access-Control-Allow-Origin")) == (200, [APP])
    polled = await cors_enabled.ask(looking(f"/api/statuses/{job}", *guest, "Prefer: wait=1"))
    assert {"Origin", "Prefer"} <= set(", ".join(polled.all("Vary")).split(", "))


async def test_an_allowed_origin_needs_all_else(cors_enabled: Target) -> None:
    """A configured origin replaces neither a token nor the Host, and a preflight starts nothing."""
    guest = f"Origin: {APP}"
    await check_held(cors_enabled, submission(guest), "401 token-needed")
    await check_held(
        cors_enabled,
        request("POST", "/api/jobs", guest, bearer(FULL_TOKEN), host="Host: evil.test"),
        "421 wrong-host",
    )
    await check_held(
        cors_enabled, request("OPTIONS", "/api/jobs", guest, "Access-Control-Request-Method: POST"), "204"
    )


@pytest.mark.parametrize(
    "origins",
    [
        ["null"],
        [""],
        ["http://app.example"],
        ["https://app.example:444"],
        ["https://app.example.evil.test"],
        ["https://evil.test/https://app.example"],
        ["https://evilapp.example"],
        ["https://sub.app.example"],
        ["https://app.example."],
        ["*"],
        [APP, "https://evil.test"],
        ["https://evil.test", APP],
        [APP, APP],
        [f"{APP}, https://evil.test"],
    ],
    ids=str,
)
async def test_similar_origins_are_not_allowed(cors_enabled: Target, origins: list[str]) -> None:
    """Any other origin than exactly the configured one is rejected, also in preflights, and may read nothing."""
    headers = [f"Origin: {origin}" for origin in origins]
    for sent in (
        preflight(*headers),
        submission(*headers, bearer(FULL_TOKEN)),
        looking("/api/jobs", *headers, bearer(FULL_TOKEN)),
    ):
        outcome = await check_held(cors_enabled, sent, "403 cross-site")
        for name, _ in outcome.replies[0].headers:
            assert not name.lower().startswith("access-control-")
        assert "Origin" in ", ".join(outcome.replies[0].all("Vary"))
