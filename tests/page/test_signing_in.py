"""Signing in to a service that requires a token."""

import json
from pathlib import Path
from typing import Any

import pytest

from shellrunner.config import Settings
from tests.support.browser_tab import BrowserTab
from tests.support.selected_service import at_fixed_port
from tests.support.tokens import hash_of, secret_of

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif("auth" not in Settings.model_fields, reason="needs tokens"),
]
TOKEN = secret_of("right")


async def test_a_token_is_requested_and_sent_with_streams(tmp_path: Path, open_tab: Any) -> None:
    """Each stream carries the token in a header, also after a restart; no URL and no storage ever has it unasked."""
    tokens = [{"name": "person", "hash": hash_of("right"), "scopes": ["read", "run"]}]
    async with at_fixed_port(tmp_path / "state", AUTH__TOKENS=json.dumps(tokens)) as service:
        tab = await open_tab(service, errors=["ERR_|NetworkError"])
        await tab.wait_for("#sign-in")
        await tab.page.fill("#token", "wrong")
        await tab.page.keyboard.press("Enter")
        await tab.wait_for("#token-error", "unknown or has expired")
        requests = []
        tab.page.on("request", lambda request: requests.append(request))  # noqa: PLW0108  playwright sets an attribute on it
        await tab.page.fill("#token", TOKEN)
        await tab.page.uncheck("#keep-token")
        await tab.page.keyboard.press("Enter")
        rest = f"until test -e {tmp_path}/go; do sleep 0.02; done; seq -f 'line %g' 21 200"
        await tab.run(f"seq -f 'line %g' 20; {rest}")
        await tab.wait_for_output("line 20")
        await service.kill()
        await tab.wait_for('#job-connection[data-state="waiting"]')
        (tmp_path / "go").touch()
        await service.start()
        await tab.wait_until_ended("exit 0")
        assert (await tab.copy_output()).split("\n")[:-1] == [f"line {each}" for each in range(1, 201)]
        streams = [request for request in requests if "/events" in request.url]
        assert {request.resource_type for request in streams} == {"fetch"}
        assert all([await request.header_value("authorization") == f"Bearer {TOKEN}" for request in streams])
        assert TOKEN not in "".join(request.url for request in requests)
        stored = "JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie])"
        assert await tab.page.evaluate(stored) == '[{},{},""]'
        async with tab.page.expect_download() as waiting:
            await tab.page.click("#download summary")
            await tab.page.click('#download [data-stream=""]')
        assert (await waiting.value).suggested_filename.startswith("job-")
        await tab.page.route("**/output", lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"))
        await tab.page.click("#download summary")
        await tab.page.click('#download [data-stream=""]')
        await tab.wait_for("#output-note", "The download failed: Received status 502")
        await tab.page.click("#sign-out")
        await tab.wait_for("#sign-in")


def open_service(state: Path) -> Any:
    """Return a service with a token of each kind, by what it may do."""
    scopes = {"right": ["read", "run"], "reader": ["read"], "admin": ["read", "run", "admin"]}
    tokens = [{"name": name, "hash": hash_of(name), "scopes": granted} for name, granted in scopes.items()]
    return at_fixed_port(state, AUTH__TOKENS=json.dumps(tokens))


async def sign_in(tab: Any, token: str) -> None:
    """Enter a token in the dialog."""
    await tab.wait_for("#sign-in")
    await tab.page.fill("#token", token)
    await tab.page.keyboard.press("Enter")


async def test_a_token_is_kept_for_the_tab(tmp_path: Path, open_tab: Any) -> None:
    """A reload in the same tab needs no token, another tab does, and signing out forgets it."""
    async with open_service(tmp_path / "state") as service:
        tab = await open_tab(service)
        await sign_in(tab, TOKEN)
        await tab.wait_until_live()
        await tab.page.reload()
        await tab.wait_until_live()
        assert not await tab.page.is_visible("#sign-in")
        other = await open_tab(service)
        await other.wait_for("#sign-in")
        await tab.page.click("#sign-out")
        await tab.wait_for("#sign-in")
        await tab.page.reload()
        await tab.wait_for("#sign-in")
        assert await tab.page.evaluate("JSON.stringify({ ...sessionStorage })") == "{}"
        await tab.page.evaluate("sessionStorage.setItem('token', 'one-that-has-expired')")
        sent = []
        tab.page.on("request", lambda request: sent.append(request.headers.get("authorization")))
        await tab.page.reload()
        await tab.wait_for("#sign-in")
        assert sent.count("Bearer one-that-has-expired") == 1


@pytest.mark.parametrize("wrong", ["wrong", "пароль", "two words"])
async def test_a_wrong_token_is_reported_as_such(tmp_path: Path, open_tab: Any, wrong: str) -> None:
    """After a token that is wrong, or none at all, the page says so, and never that the service cannot be reached."""
    async with open_service(tmp_path / "state") as service:
        tab = await open_tab(service)
        await tab.page.evaluate("""() => {
            window.texts = new Set();
            new MutationObserver(() => texts.add(document.getElementById('banner').innerText))
                .observe(document.getElementById('banner'), { subtree: true, childList: true, attributes: true });
        }""")
        sent = []
        tab.page.on("request", lambda request: sent.append(request.headers.get("authorization")))
        for _ in range(2):
            await sign_in(tab, wrong)
            await tab.wait_for("#token-error")
        assert sent.count(f"Bearer {wrong}") == (2 if wrong == "wrong" else 0)  # the service counts wrong ones
        await sign_in(tab, TOKEN)
        await tab.wait_until_live()
        assert "reach" not in " ".join(await tab.page.evaluate("[...texts]")).lower()


async def test_a_token_that_may_only_read_is_offered_nothing_else(tmp_path: Path, open_tab: Any) -> None:
    """With the scope `read` there are no run box, no selection and no action; with `admin` queues can be paused."""
    async with open_service(tmp_path / "state") as service:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        spec = {"command": "sleep 1000", "tty": True, "stdin": {"stream": True}}
        status, _, job = await service.ask("POST", "/api/jobs", json=spec, headers=headers)
        assert status == 202
        tab = await open_tab(service, f"#job={job['job_id']}")
        await sign_in(tab, secret_of("reader"))
        await tab.wait_until_live()
        await tab.wait_for("#job-badge .badge", "running")
        await tab.until("() => document.body.hasAttribute('data-read-only')")
        await tab.wait_for('#job-connection[data-state="live"]')
        actions = ("#job-cancel", "#job-rerun", "#job-signal", "#type", "#queue-actions")
        for hidden in ("#run", ".column-select", *actions):
            assert not await tab.page.is_visible(hidden), hidden
        await tab.page.keyboard.press("c")
        assert not await tab.page.is_visible("#confirm")
        await tab.page.keyboard.press("i")
        assert await tab.page.locator("#terminal.typing").count() == 0
        admin = await open_tab(service)
        await sign_in(admin, secret_of("admin"))
        await admin.wait_for("#queue-pause", "Pause all")
        assert await admin.page.is_visible("#run")
        await admin.page.evaluate(f"location.hash = 'job={job['job_id']}'")
        await admin.wait_for("#type")


FORBIDDEN = """for (const name of ['localStorage', 'sessionStorage']) {
    Object.defineProperty(window, name, { get() { throw new DOMException('denied', 'SecurityError'); } });
}"""
FULL = "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); };"


@pytest.mark.parametrize("storage", [FORBIDDEN, FULL], ids=["forbidden", "full"])
async def test_the_page_works_without_storage(tmp_path: Path, browser_context: Any, storage: str) -> None:
    """A browser that forbids storage or is full costs what would be stored, and nothing else."""
    async with open_service(tmp_path / "state") as service:
        page = await (await browser_context()).new_page()
        await page.add_init_script(storage)
        tab = BrowserTab(page, service, ())
        await tab.open()
        await page.check("#keep-token")
        await sign_in(tab, TOKEN)
        await tab.wait_until_live()
        before = await page.get_attribute("html", "data-theme")
        await page.click("#theme")
        assert await page.get_attribute("html", "data-theme") != before
        await tab.assert_no_errors()
        await page.close()
