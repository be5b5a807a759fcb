"""A real browser: pages of other sites that try all that a page can try, and commands' output."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from tests.support.attack import Target, request, running, serving
from tests.support.selected_service import at_port
from tests.support.waiting import WAIT_TIMEOUT, until

try:
    from playwright import async_api
except ImportError:
    async_api = None

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(async_api is None, reason="needs shellrunner[browser]; .ci/run has a step with it"),
    pytest.mark.skipif("CI" not in os.environ and not shutil.which("chromium"), reason="needs Debian's chromium"),
]

ATTEMPTS = Path(__file__).with_name("attempts.js").read_text()
SECRET = "geheim-42"
SHOWN_AS_TEXT = ("text/plain", "application/json", "application/problem+json")
ACTIONS = {"pause": "/api/queues/pause", "remove": "/api/jobs?confirm=true", "cancel": "/api/jobs/1/cancel"}
PATHS = [
    "/api/jobs",
    "/api/statuses/1/output",
    "/api/results/1/stdout",
    "/api/results/1",
    "/metrics",
    "/api/statuses/events",
    "/api/statuses/1/events",
]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def chromium() -> AsyncIterator[Any]:
    """Yield the browser; every name that ends in `.test` is this machine, as after DNS rebinding.

    Without Chromium's own protection of local networks, which would leave nothing to be seen of ours.
    """
    options = [
        "--host-resolver-rules=MAP *.test 127.0.0.1",
        "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests",
        *(["--no-sandbox"] if os.geteuid() == 0 else []),
    ]
    async with async_api.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=shutil.which("chromium"), args=options)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def page(chromium: Any) -> AsyncIterator[Any]:
    """Yield an empty page in a new browser context."""
    context = await chromium.new_context()
    yield await context.new_page()
    await context.close()


class Elsewhere:
    """Another site, which records what its pages send to it."""

    def __init__(self) -> None:
        """Start with nothing recorded."""
        self.requested: list[str] = []
        self.port = 0

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Serve a page, or record what was sent."""
        if request.path != "/":
            self.requested.append(request.path)
        return web.Response(text="<!doctype html><title>elsewhere</title><body>", content_type="text/html")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def elsewhere() -> AsyncIterator[Elsewhere]:
    """Listen on another port of this machine."""
    site = Elsewhere()
    runner = web.ServerRunner(web.Server(site.answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    site.port = runner.addresses[0][1]
    yield site
    await runner.cleanup()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def victim(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    """Yield a service with one job, whose output is a secret."""
    async with running(tmp_path_factory.mktemp("victim")) as target:
        body = json.dumps({"command": f"printf {SECRET}"}).encode()
        await target.ask(request(body=body))
        await until(lambda: not_running(target))
        yield target


async def not_running(target: Target) -> bool:
    """Whether all of its jobs are done."""
    jobs, *_ = await target.state()
    return all(job["done"] for job in jobs["jobs"])


async def tried(page: Any, target: str, harms: dict[str, str], patience: int = 5) -> dict[str, str | None]:
    """Return the text that a page can read by each attempt; each takes at most so many seconds."""
    given = {"target": target, "paths": PATHS, "patience": patience * 1000, **harms}
    async with asyncio.timeout(WAIT_TIMEOUT):
        found: dict[str, str | None] = await page.evaluate(ATTEMPTS, given)
    return found


@pytest.mark.heavy
async def test_what_is_tried_would_work(page: Any, tmp_path: Path) -> None:
    """From the service's own origin the same attempts read the secret in many ways, and start the command."""
    async with running(tmp_path) as target:
        await target.ask(request(body=json.dumps({"command": f"printf {SECRET}"}).encode()))
        await until(lambda: not_running(target))
        own = f"http://localhost:{target.port}"
        await page.goto(f"{own}/healthz")
        found = await tried(page, own, dict.fromkeys(ACTIONS, "/api/none"))
        await until(target.canary.exists)
    ways = {name.partition(" ")[0] for name, read in found.items() if read is not None}
    assert ways >= {"fetch", "post", "xhr", "EventSource", "iframe"}
    assert SECRET in (found["fetch cors /api/statuses/1/output"] or "")


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("other", "own"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "localhost"),
        ("evil.test", "localhost"),
        ("evil.localhost", "localhost"),
    ],
)
async def test_another_site(page: Any, elsewhere: Elsewhere, victim: Target, other: str, own: str) -> None:
    """A page of another site, or of another port of this machine, reads nothing and starts nothing."""
    before, audit = await victim.state(), len(victim.audit())
    await page.goto(f"http://{other}:{elsewhere.port}/")
    found = await tried(page, f"http://{own}:{victim.port}", ACTIONS, 2)
    assert {name: read for name, read in found.items() if read is not None} == {}
    expected = {("GET", path) for path in PATHS} | {("OPTIONS", "/api/jobs")}
    expected |= {("POST", path) for path in ("/api/jobs", "/api/queues/pause", "/api/jobs/1/cancel")}
    await until(lambda: {(line["verb"], line["path"]) for line in victim.audit()[audit:]} >= expected, 5)
    assert {line["event"] for line in victim.audit()[audit:]} == {"rejected"}
    assert await victim.state() == before


@pytest.mark.heavy
async def test_a_name_that_was_rebound(page: Any, victim: Target) -> None:
    """A page whose name was rebound to this machine has the same origin as its requests, but reads only 421."""
    before, audit = await victim.state(), len(victim.audit())
    evil = f"http://evil.test:{victim.port}"
    await page.route(
        f"{evil}/", lambda route: route.fulfill(body="<!doctype html><body>", content_type="text/html"), times=1
    )
    await page.goto(f"{evil}/")
    found = await tried(page, evil, ACTIONS)
    read = {name: text for name, text in found.items() if text is not None}
    assert {name.partition(" ")[0] for name in read} >= {"fetch", "post", "delete", "xhr", "iframe", "form"}
    assert [name for name, text in read.items() if "/problems/wrong-host" not in text] == []
    assert await victim.state() == before
    assert {line["why"] for line in victim.audit()[audit:]} >= {"wrong-host"}


async def test_a_link_from_another_site(page: Any, elsewhere: Elsewhere, victim: Target) -> None:
    """A link from another site to the API leads to a 403; the same address typed by hand is served."""
    address = f"http://localhost:{victim.port}/api/statuses/1/output"
    await page.goto(f"http://evil.test:{elsewhere.port}/")
    async with page.expect_navigation():
        await page.evaluate("address => { location = address }", address)
    assert "cross-site" in await page.inner_text("body")
    assert (await page.goto(address)).status == 200
    assert await page.inner_text("body") == SECRET


@pytest.mark.heavy
async def test_output_is_never_a_page(page: Any, elsewhere: Elsewhere, tmp_path: Path) -> None:
    """Output is shown as text: no script in it runs, however it is opened."""
    beacon = f"http://127.0.0.1:{elsewhere.port}/owned"
    written = f"<!doctype html><title>owned</title><script>new Image().src='{beacon}'</script><img src={beacon}>"
    async with serving(tmp_path) as target:
        body = json.dumps({"argv": ["printf", "%s", written], "labels": {"a": written}}).encode()
        job = json.loads((await target.ask(request(body=body))).body)["job_id"]
        await until(lambda: not_running(target))
        own = f"http://localhost:{target.port}"
        for path in (
            f"statuses/{job}/output",
            f"results/{job}/stdout",
            f"results/{job}",
            f"jobs/{job}",
            f"x{written.replace('//', '/')}",  # an empty segment would be rejected without naming the path
        ):
            await page.goto(f"{own}/api/{path}")
            assert await page.evaluate("document.contentType") in SHOWN_AS_TEXT
            assert await page.title() != "owned"
            assert "<title>owned" in await page.inner_text("body")
        await page.goto(f"http://127.0.0.1:{elsewhere.port}/")  # a page that ran scripts would request it
        await page.evaluate(f"new Image().src = '{beacon}'")
        await until(lambda: "/owned" in elsewhere.requested)
    assert elsewhere.requested.count("/owned") == 1


# A service worker that answers every page with its own, and one that lets everything pass through it.
EVIL_WORKER = """
self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => {
    if (event.request.mode === "navigate" && REPLACES) {
        event.respondWith(new Response("<title>evil</title>", { headers: { "Content-Type": "text/html" } }));
    }
});
"""


@pytest.mark.heavy
@pytest.mark.parametrize("replaces", ["true", "false", "cached"])
async def test_a1_a_service_worker_that_was_left_behind_is_removed(
    chromium: Any, tmp_path: Path, replaces: str
) -> None:
    """What another program left while it listened here, a worker or cached pages, ends with the next visit."""

    async def answer(asked: web.BaseRequest) -> web.Response:
        if asked.path == "/a/b.js":
            return web.Response(
                text=EVIL_WORKER.replace("REPLACES", str(replaces == "true").lower()),
                content_type="text/javascript",
                headers={"Service-Worker-Allowed": "/"},
            )
        stored = {"Cache-Control": "max-age=86400"} if replaces == "cached" else {}
        return web.Response(text="<!doctype html><title>squatter</title>", content_type="text/html", headers=stored)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    context = await chromium.new_context()
    try:
        page = await context.new_page()
        for path in ("/docs/", "/"):
            await page.goto(f"http://localhost:{port}{path}")
        await page.evaluate("navigator.serviceWorker.register('/a/b.js', { scope: '/' })")
        await page.wait_for_function("() => navigator.serviceWorker.controller !== null")
        await runner.cleanup()
        async with at_port(tmp_path / "state", port) as service:
            sent: list[str] = []
            page.on("request", lambda each: sent.append(each.url) if "/api/" in each.url else None)
            await page.goto("about:blank")  # to load the same address again would be to reload it
            await page.goto(f"http://localhost:{port}/")
            if replaces == "false":
                assert "service worker" in await page.inner_text("[role=alert]")
                assert sent == []
                await page.wait_for_function(
                    "() => navigator.serviceWorker.getRegistrations().then((all) => !all.length)"
                )
                await page.goto("about:blank")
                await page.goto(f"http://localhost:{port}/")
            else:
                assert await page.title() == {"true": "evil", "cached": "squatter"}[replaces]
            await page.wait_for_selector('#connection[data-state="live"]', timeout=WAIT_TIMEOUT * 1000)
            assert await page.evaluate("navigator.serviceWorker.getRegistrations().then((all) => all.length)") == 0
            assert await page.evaluate("navigator.serviceWorker.controller") is None
            await page.goto(f"http://localhost:{port}/docs/")
            assert await page.title() != "squatter"
            assert service.url
    finally:
        await context.close()
        await runner.cleanup()
