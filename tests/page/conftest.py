"""The page in a real Chromium, before a real service.

Without the extra `browser` these tests say so and are skipped; without the browser itself too, but
where CI is set they fail.
"""

import os
import shutil

import pytest
import pytest_asyncio

from tests.support.browser_tab import BrowserTab
from tests.support.service import at_port

# What no page of ours may ever do; each is collected where it happens, and every test ends with looking at them.
WATCH = """
window.faults = [];
addEventListener("securitypolicyviolation", (event) => faults.push(`${event.violatedDirective} ${event.blockedURI}`));
addEventListener("error", (event) => faults.push(event.message));
addEventListener("unhandledrejection", (event) => faults.push(String(event.reason)));
"""


def _chromium():
    found = shutil.which("chromium")
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("there is no chromium here: apt-get install chromium")
    return found


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser():
    """One Chromium for all of these tests."""
    # Its own sandbox is not to be had for root.
    flags = ["--no-sandbox"] if os.getuid() == 0 else []
    missing = "the extra `browser` is not installed: pip install -e '.[browser]'"
    driver = pytest.importorskip("playwright.async_api", reason=missing)
    async with driver.async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=_chromium(), args=flags)
        yield running
        await running.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def service(tmp_path_factory):
    """One service for all of these tests: each makes jobs of its own."""
    async with at_port(tmp_path_factory.mktemp("page") / "state", 0, SUPERVISOR__MAX_RUNNING=8) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def person(browser):
    """Makes browsers' profiles: `await person(color_scheme="dark")` is the same one each time.

    A fresh one would fetch and compile the whole page again for every test.
    """
    known = {}

    async def profile(**options):
        kind = repr(sorted(options.items()))
        if kind not in known:
            known[kind] = await browser.new_context(viewport={"width": 1280, "height": 800}, **options)
            await known[kind].grant_permissions(["clipboard-read", "clipboard-write"])
            await known[kind].add_init_script(WATCH)
        return known[kind]

    return profile


@pytest_asyncio.fixture(loop_scope="session")
async def reading(person):
    """Opens readers: `await reading(service, "#job=1", color_scheme="dark")`; none may have met a fault."""
    opened = []

    async def read(service, place="", *, size=(1280, 800), faults=(), **options):
        page = await (await person(**options)).new_page()
        await page.set_viewport_size(dict(zip(("width", "height"), size, strict=True)))
        reader = BrowserTab(page, service, faults)
        opened.append(reader)
        await reader.open(place)
        return reader

    yield read
    for reader in opened:
        await reader.faultless()
        await reader.page.evaluate("localStorage.clear()")
        await reader.page.close()
