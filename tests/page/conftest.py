"""The page in a real Chromium, before a real service.

Without the extra `browser` these tests say so and are skipped; without the browser itself too, but
where CI is set they fail.
"""

import os
import shutil
import sys
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from tests.page.reader import Reader
from tests.service import Service

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


@asynccontextmanager
async def steady(state_dir, port, **settings):
    """A service that comes back at the same address when it is killed and started again."""
    running = Service(state_dir)
    running.program = [sys.executable, "-m", "shellrunner", "serve", "--port", str(port)]
    await running.start(**settings)
    try:
        yield running
    finally:
        await running.clear_away()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def service(tmp_path_factory):
    """One service for all of these tests: each makes jobs of its own."""
    async with steady(tmp_path_factory.mktemp("page") / "state", 0, SUPERVISOR__MAX_RUNNING=8) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def reading(browser):
    """Opens readers: `await reading(service, "#job=1", color_scheme="dark")`; none may have met a fault."""
    opened = []

    async def read(service, place="", *, size=(1280, 800), faults=(), **options):
        context = await browser.new_context(viewport=dict(zip(("width", "height"), size, strict=True)), **options)
        await context.grant_permissions(["clipboard-read", "clipboard-write"])
        await context.add_init_script(WATCH)
        reader = Reader(await context.new_page(), service, faults)
        opened.append(reader)
        await reader.open(place)
        return reader

    yield read
    for reader in opened:
        await reader.faultless()
        await reader.page.context.close()
