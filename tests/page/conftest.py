"""Fixtures for the page in a real Chromium with a real service.

Without the extra `browser` these tests are skipped. Without Chromium they are skipped too, but fail where CI is set.
"""

import os
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.browser_tab import BrowserTab
from tests.support.selected_service import at_port
from tests.support.service import Service

# Collects policy violations and uncaught errors; every test ends with a check that there were none.
COLLECT_ERRORS = """
window.pageErrors = [];
addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) => {
    pageErrors.push(`${violatedDirective} ${blockedURI}`);
});
addEventListener("error", (event) => pageErrors.push(event.message));
addEventListener("unhandledrejection", (event) => pageErrors.push(String(event.reason)));
"""


def _chromium() -> Any:
    found = shutil.which("chromium")
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("Chromium is not installed: apt-get install chromium")
    return found


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Any]:
    """Start one Chromium for all of these tests."""
    # Chromium's sandbox does not work for root.
    flags = ["--no-sandbox"] if os.getuid() == 0 else []
    missing = "the extra `browser` is not installed: pip install -e '.[browser]'"
    driver = pytest.importorskip("playwright.async_api", reason=missing)
    async with driver.async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=_chromium(), args=flags)
        yield running
        await running.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """Run one service for all of these tests; each submits jobs of its own."""
    async with at_port(tmp_path_factory.mktemp("page") / "state", 0, SUPERVISOR__MAX_RUNNING=8) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser_context(browser: Any) -> Any:
    """Return a function for browser contexts: one per set of options, such as color_scheme="dark".

    They are shared, because a new one would fetch and compile the whole page again for every test.
    """
    contexts = {}

    async def get(**options: Any) -> Any:
        key = repr(sorted(options.items()))
        if key not in contexts:
            contexts[key] = await browser.new_context(viewport={"width": 1280, "height": 800}, **options)
            await contexts[key].grant_permissions(["clipboard-read", "clipboard-write"])
            await contexts[key].add_init_script(COLLECT_ERRORS)
        return contexts[key]

    return get


@pytest_asyncio.fixture(loop_scope="session")
async def open_tab(browser_context: Any) -> AsyncIterator[Any]:
    """Return a function that opens tabs; at the end of the test none may have an error that is not in `errors`."""
    opened = []

    async def open_(
        service: Service, fragment: str = "", *, size: Any = (1280, 800), errors: Any = (), **options: Any
    ) -> Any:
        page = await (await browser_context(**options)).new_page()
        await page.set_viewport_size(dict(zip(("width", "height"), size, strict=True)))
        tab = BrowserTab(page, service, errors)
        opened.append(tab)
        await tab.open(fragment)
        return tab

    yield open_
    for tab in opened:
        await tab.assert_no_errors()
        await tab.page.evaluate("localStorage.clear()")
        await tab.page.close()
