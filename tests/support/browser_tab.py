"""A person before the page: what they do and see there, for tests to read like what they tell."""

import re
from urllib.parse import urlsplit

SOON = 15_000  # milliseconds

# The text of the rows that are on the screen now.
_ROWS = "() => document.querySelector('.xterm-rows')?.innerText.replaceAll('\\u00a0', ' ') ?? ''"
# The button says for a moment only that it has copied; `window.copying` is told.
_COPYING = """() => {
    window.copying = new Promise((told) => {
        const watcher = new MutationObserver(told);
        watcher.observe(document.getElementById('copy'), { attributeFilter: ['data-done'] });
    });
    return null;
}"""
# Runs a function of one of the page's own modules.
_CALL = """async ([name, given]) => {
    const main = document.querySelector('script[type=module]').src;
    const module = await import(new URL(name, main));
    return (async () => { SCRIPT })();
}"""


class BrowserTab:
    """One tab, and whoever sits before it."""

    def __init__(self, page, service, expected):
        self.page, self.service = page, service
        self.foreign, self._expected = [], expected
        self._home = urlsplit(service.url).netloc
        self.page.set_default_timeout(SOON)
        self.page.on("request", self._note)

    def _note(self, request):
        target = urlsplit(request.url)
        if target.scheme != "blob" and target.netloc != self._home:
            self.foreign.append(request.url)

    async def open(self, place=""):
        """Go to the page, at a place in it."""
        await self.page.goto(f"{self.service.url}/{place}")

    async def faultless(self):
        """Nothing broke the policy, failed, or asked another host."""
        faults = await self.page.evaluate("() => window.faults")
        assert [fault for fault in faults if not any(re.search(known, fault) for known in self._expected)] == []
        assert self.foreign == []

    async def sees(self, selector, text=None):
        """Wait until an element is to be seen, perhaps with this text."""
        found = self.page.locator(selector)
        if text is not None:
            found = found.filter(has_text=text)
        await found.first.wait_for()
        return found.first

    async def until(self, script, given=None):
        """Wait until something is true in the page."""
        return await self.page.wait_for_function(script, arg=given, polling=20)

    async def says(self, text):
        """Wait until the terminal shows this."""
        await self.until(f"(text) => ({_ROWS})().includes(text)", text)

    async def rows(self):
        """What the terminal shows."""
        return await self.page.evaluate(_ROWS)

    async def live(self):
        """Wait until the list is live and read."""
        await self.sees('#line[data-line="live"]')
        await self.sees('.table[aria-busy="false"]')

    async def run(self, command):
        """Write a command and run it with the keyboard; returns the job's number once it is shown."""
        await self.live()
        before = await self.page.text_content("#job-name")
        await self.page.fill("#run-command", command)
        await self.page.press("#run-command", "Control+Enter")
        await self.until("(name) => !job.hidden && document.getElementById('job-name').textContent !== name", before)
        return int((await self.page.text_content("#job-name")).removeprefix("Job "))

    async def ended(self, badge):
        """Wait until the job that is looked at has ended so."""
        await self.sees("#job-badge .badge", badge)
        await self.sees('#job-line[data-line="ended"]')

    async def copied(self):
        """All of the output that the page has, by its own button."""
        await self.page.evaluate(_COPYING)
        await self.page.click("#copy")
        await self.page.evaluate("window.copying")
        return await self.page.evaluate("navigator.clipboard.readText()")

    async def commands(self):
        """The commands in the list, from the top."""
        return await self.page.locator("#rows .open").all_text_contents()

    async def listed(self, *commands):
        """Wait until the list is exactly this."""
        shown = "() => [...document.querySelectorAll('#rows .open')].map((link) => link.textContent)"
        await self.until(f"(wanted) => JSON.stringify(({shown})()) === JSON.stringify(wanted)", list(commands))

    async def address(self):
        """What the address says is shown."""
        return set((await self.page.evaluate("decodeURIComponent(location.hash.slice(1))")).split("&"))

    async def call(self, module, script, given=None):
        """What a piece of script makes of `module`, one of the page's own, and `given`."""
        return await self.page.evaluate(_CALL.replace("SCRIPT", script), [module, given])
