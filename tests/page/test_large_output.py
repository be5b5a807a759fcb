"""Large outputs: the page stays responsive and reports what it skips."""

from typing import Any

import pytest

from tests.support.service import Service

pytestmark = pytest.mark.asyncio(loop_scope="session")

# The longest time between two frames is how long the page appeared frozen.
FRAMES = """() => {
    window.longestFrame = 0;
    let last = performance.now();
    const frame = (now) => {
        window.longestFrame = Math.max(window.longestFrame, now - last);
        last = now;
        requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
}"""
MAX_FRAME = 1500  # milliseconds: generous, because the service and the jobs run on the same cores
LINE = "a line of output that is about as long as the lines that programs usually log"
HUNDRED_MEGABYTES = f"yes '{LINE}' | head -c 100000000; echo; echo the very end"


async def test_a_hundred_megabytes_are_followed_without_freezing(service: Service, open_tab: Any) -> None:
    """While 100 MB are written at full speed and followed, no frame takes long; the end of the output is shown."""
    tab = await open_tab(service)
    await tab.wait_until_live()
    await tab.page.evaluate(FRAMES)
    await tab.run(HUNDRED_MEGABYTES)
    await tab.wait_until_ended("exit 0")
    await tab.wait_for_output("the very end")
    assert await tab.page.evaluate("window.longestFrame") < MAX_FRAME
    await tab.wait_for("#output-note", "skipped")


async def test_only_the_end_of_a_hundred_megabytes_is_fetched(service: Service, open_tab: Any) -> None:
    """Of a finished job's 100 MB only the end is fetched, and the page shows how much was skipped."""
    job = await service.submit(HUNDRED_MEGABYTES)
    await service.result(job)
    tab = await open_tab(service)
    await tab.wait_until_live()
    fetched = []
    tab.page.on("response", lambda response: fetched.append(response.url))
    await tab.page.evaluate(FRAMES)
    await tab.page.evaluate(f"location.hash = 'job={job}'")
    await tab.wait_for_output("the very end")
    assert await tab.page.evaluate("window.longestFrame") < MAX_FRAME
    await tab.wait_for("#output-note", "93.5 MiB of output skipped")
    assert (await tab.copy_output()).startswith("⋯ 93.5 MiB of output skipped")
    assert any("last_event_id=98" in url for url in fetched)


async def test_the_terminal_bounds_a_million_lines(service: Service, open_tab: Any) -> None:
    """A million short lines do not freeze the page, and the terminal keeps fewer than 60,000 of them."""
    tab = await open_tab(service)
    await tab.wait_until_live()
    await tab.page.evaluate(FRAMES)
    await tab.run("seq 1 1000000")
    await tab.wait_until_ended("exit 0")
    await tab.wait_for_output("1000000")
    assert await tab.page.evaluate("window.longestFrame") < MAX_FRAME
    assert len((await tab.copy_output()).split("\n")) < 60_000
