"""Lines of an output: find in all of it, go to any of them, link to them."""

from typing import Any

import pytest
import pytest_asyncio

from tests.page.test_large_output import MAX_FRAME
from tests.support.browser_tab import BrowserTab
from tests.support.service import Service
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="session")

SHOWN = "(document.querySelector('#excerpt .xterm-rows')?.innerText ?? '').replaceAll('\\u00a0', ' ')"
LINES = 400_000  # of 60 bytes: more than the page fetches


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def large(service: Service) -> int:
    """Run a job with a large output; return its id."""
    line = "line %.0f of an output, of which 400,000 are many bytes"
    command = f"echo the needle; seq -f '{line}' 2 {LINES}; echo a NEEDLE at last"
    return int((await service.run(command))["job_id"])


async def wait_for_line(tab: BrowserTab, text: str) -> None:
    """Wait until the part of the output that was asked for has this text."""
    await tab.until(f"(text) => !excerpt.hidden && {SHOWN}.includes(text)", text)


async def test_any_line_of_a_large_output_is_shown(service: Service, large: int, open_tab: Any) -> None:
    """The box goes to a line by its number, and back; further lines are fetched when the end of the part is near."""
    tab = await open_tab(service, f"#job={large}")
    await tab.wait_for_output("a NEEDLE at last")
    await tab.page.keyboard.press("g")
    await tab.wait_for("#line-count", f"of {LINES + 1:,} lines")
    for line in (200_000, 12, 399_000, 200_010):
        await tab.page.fill("#line-number", str(line))
        await tab.page.keyboard.press("Enter")
        await wait_for_line(tab, f"line {line} of")
        await tab.page.click("#copy")
        await tab.until("async (text) => (await navigator.clipboard.readText()).includes(text)", f"line {line} of")
        await tab.wait_for("#scroll-to-end", f"Line {line:,}: scroll to the end")
        assert await tab.address_parameters() == {f"job={large}-{line}"}
    await tab.page.click("#excerpt")
    await until(lambda: _scroll_beyond(tab, 220_000))
    await tab.page.click("#scroll-to-end")
    await tab.until("() => excerpt.hidden")
    assert await tab.address_parameters() == {f"job={large}"}
    await tab.wait_for_output("a NEEDLE at last")


async def _scroll_beyond(tab: BrowserTab, line: int) -> bool:
    await tab.page.keyboard.press("End")
    return bool(await tab.page.evaluate(f"(line) => Number(/line (\\d+)/.exec({SHOWN})?.[1]) > line", line))


async def test_all_of_a_large_output_is_searched(service: Service, large: int, open_tab: Any) -> None:
    """Find shows matches of all of the output, also far above what was fetched, and no frame takes long."""
    tab = await open_tab(service, f"#job={large}")
    await tab.wait_for_output("a NEEDLE at last")
    await tab.page.evaluate(
        "window.longest = 0; let last = performance.now(); (function next(now) {"
        " longest = Math.max(longest, now - last); last = now; requestAnimationFrame(next); })(last)"
    )
    await tab.page.keyboard.press("f")
    await tab.page.keyboard.type("needle")
    await wait_for_line(tab, "the needle")
    await tab.wait_for("#find-count", "1 of ")
    assert await tab.copy_output() == "needle"
    await tab.page.press("#find-text", "Enter")
    await tab.wait_for("#find-count", "2 of 2")
    await wait_for_line(tab, "a NEEDLE at last")
    assert await tab.copy_output() == "NEEDLE"
    assert await tab.address_parameters() == {f"job={large}-{LINES + 1}"}
    await tab.page.press("#find-text", "Shift+Enter")
    await wait_for_line(tab, "the needle")
    await tab.page.fill("#find-text", "there is no such text")
    await tab.wait_for("#find-count", "No match")
    assert await tab.page.evaluate("longest") < MAX_FRAME


async def test_an_address_with_a_line_shows_it(service: Service, large: int, open_tab: Any) -> None:
    """A link to a line opens the job there, wherever that is; one beyond the end shows the last line."""
    tab = await open_tab(service, f"#job={large}-123456")
    await wait_for_line(tab, "line 123456 of")
    await tab.wait_until_ended("exit 0")
    await tab.page.evaluate(f"location.hash = 'job={large}-99999999'")
    await wait_for_line(tab, "a NEEDLE at last")
    await tab.wait_for("#scroll-to-end", f"Line {LINES + 1:,}")
    await tab.page.evaluate(f"location.hash = 'job={large}'")
    await tab.until("() => excerpt.hidden")


async def test_a_selected_line_can_be_linked_to(service: Service, open_tab: Any) -> None:
    """The line box has the number of the selected line, and copies a link to it."""
    job = (await service.run(f"echo {'wrapped ' * 40}; seq -f 'line %.0f' 2 30"))["job_id"]
    tab = await open_tab(service, f"#job={job}")
    await tab.wait_until_ended("exit 0")
    await tab.wait_for_output("line 20")
    row = await tab.page.locator("#terminal .xterm-rows > div", has_text="line 17").bounding_box()
    await tab.page.mouse.dblclick(row["x"] + 10, row["y"] + 5)
    await tab.page.keyboard.press("g")
    assert await tab.page.input_value("#line-number") == "17"
    await tab.page.click("#line-link")
    await tab.wait_for("#line-link[data-copied=yes]")
    copied = await tab.page.evaluate("navigator.clipboard.readText()")
    assert copied == f"{service.url}/#job={job}-17"
