"""A browser tab with the page: what a test does in it, and what it waits for."""

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from tests.support.service import Service

TIMEOUT = 15_000  # milliseconds

# The text of the rows that the terminal displays.
_TERMINAL_TEXT = "() => document.querySelector('.xterm-rows')?.innerText.replaceAll('\\u00a0', ' ') ?? ''"
# The button shows only for a moment that it has copied; `window.copying` resolves when it does.
_WATCH_COPY_BUTTON = """() => {
    window.copying = new Promise((resolve) => {
        const observer = new MutationObserver(resolve);
        observer.observe(document.getElementById('copy'), { attributeFilter: ['data-copied'] });
    });
    return null;
}"""
# Runs SCRIPT with a module of the page.
_CALL_MODULE = """async ([name, given]) => {
    const main = document.querySelector('script[type=module]').src;
    const module = await import(new URL(name, main));
    return (async () => { SCRIPT })();
}"""


class BrowserTab:
    """One tab with the page of one service; records errors and requests to other hosts."""

    def __init__(self, page: Any, service: Service, expected_errors: Sequence[str]) -> None:
        self.page, self.service = page, service
        self._expected_errors = expected_errors
        self.foreign_requests: list[str] = []
        self._home = urlsplit(service.url).netloc
        self.page.set_default_timeout(TIMEOUT)
        self.page.on("request", self._record)

    def _record(self, request: Any) -> None:
        target = urlsplit(request.url)
        if target.scheme != "blob" and target.netloc != self._home:
            self.foreign_requests.append(request.url)

    async def open(self, fragment: str = "") -> None:
        """Load the page with this fragment in its address."""
        await self.page.goto(f"{self.service.url}/{fragment}")

    async def assert_no_errors(self) -> None:
        """Fail if the page violated its policy, raised an error that was not expected, or contacted another host."""
        errors = await self.page.evaluate("() => window.pageErrors")
        assert [each for each in errors if not any(re.search(known, each) for known in self._expected_errors)] == []
        assert self.foreign_requests == []

    async def wait_for(self, selector: str, text: str | None = None) -> Any:
        """Wait until an element is visible, and contains this text if one is given."""
        found = self.page.locator(selector)
        if text is not None:
            found = found.filter(has_text=text)
        await found.first.wait_for()
        return found.first

    async def until(self, script: str, given: Any = None) -> Any:
        """Wait until a script in the page returns true."""
        return await self.page.wait_for_function(script, arg=given, polling=20)

    async def wait_for_output(self, text: str) -> None:
        """Wait until the terminal displays this text."""
        await self.until(f"(text) => ({_TERMINAL_TEXT})().includes(text)", text)

    async def terminal_text(self) -> str:
        """Return the text that the terminal displays."""
        return str(await self.page.evaluate(_TERMINAL_TEXT))

    async def wait_until_live(self) -> None:
        """Wait until the stream of the list is open and the list has been fetched."""
        await self.wait_for('#connection[data-state="live"]')
        # It need not be visible: without jobs it is empty.
        await self.until("() => document.querySelector('.table').ariaBusy === 'false'")

    async def run(self, command: str) -> int:
        """Run a command with the keyboard; returns the job's id once its view is open."""
        await self.wait_until_live()
        before = await self.page.text_content("#job-name")
        await self.page.fill("#run-command", command)
        await self.page.press("#run-command", "Enter")
        await self.until("(name) => !job.hidden && document.getElementById('job-name').textContent !== name", before)
        return int((await self.page.text_content("#job-name")).removeprefix("Job "))

    async def wait_until_ended(self, badge: str) -> None:
        """Wait until the open job has ended with this badge."""
        await self.wait_for("#job-badge .badge", badge)
        await self.wait_for('#job-connection[data-state="ended"]')

    async def copy_output(self) -> str:
        """Click the copy button and return the clipboard: all output that the page has."""
        await self.page.evaluate(_WATCH_COPY_BUTTON)
        await self.page.click("#copy")
        await self.page.evaluate("window.copying")
        return str(await self.page.evaluate("navigator.clipboard.readText()"))

    async def wait_for_list(self, *commands: str) -> None:
        """Wait until the list has exactly these commands."""
        shown = "() => [...document.querySelectorAll('#rows .job-link')].map((link) => link.textContent)"
        await self.until(f"(wanted) => JSON.stringify(({shown})()) === JSON.stringify(wanted)", list(commands))

    async def address_parameters(self) -> set[str]:
        """Return the parameters in the address."""
        return set((await self.page.evaluate("decodeURIComponent(location.hash.slice(1))")).split("&"))

    async def call_module(self, name: str, script: str, given: Any = None) -> Any:
        """Return the result of a script that has `module`, a module of the page, and `given`."""
        return await self.page.evaluate(_CALL_MODULE.replace("SCRIPT", script), [name, given])
