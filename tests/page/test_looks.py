"""The page on every screen: light and dark, narrow and wide, for those who see it and those who hear it."""

import pytest

from tests.support.browser_tab import BrowserTab

pytestmark = pytest.mark.asyncio(loop_scope="session")
pytest.importorskip("axe_playwright_python", reason="the extra `browser` is not installed")
from axe_playwright_python.async_playwright import Axe  # noqa: E402

SIZES = [(360, 740), (1280, 800), (3840, 2160)]


async def busy(service):
    """A service with jobs of several kinds; returns one that failed."""
    for command in ("sleep 0.2", "exit 3", "kill -SEGV $$"):
        await service.run(command, labels={"team": "web"})
    await service.submit("sleep 1000")
    colours = "printf '\\033[31mred\\033[0m \\033[1;33myellow\\033[0m\\n'"
    return (await service.run(f"echo out; {colours}; echo err >&2; exit 1"))["job_id"]


async def seriously_wrong(reader: BrowserTab):
    """What axe has against the page as it stands."""
    found = await Axe().run(reader.page, options={"resultTypes": ["violations"]})
    return [
        (each["id"], [node["target"] for node in each["nodes"]][:5])
        for each in found.response["violations"]
        if each["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_is_accessible(service, reading, scheme):
    """axe finds nothing serious in the list, the run box, a job, the find box, the dialogs, light or dark."""
    job = await busy(service)
    reader = await reading(service, color_scheme=scheme)
    await reader.live()
    await reader.sees("#rows .badge", "exit 1")
    await reader.page.click("#run-more")
    assert await seriously_wrong(reader) == []
    await reader.page.evaluate(f"location.hash = 'job={job}&label=team:web'")
    await reader.ended("exit 1")
    await reader.page.click("#seek-open")
    await reader.page.click("#aloud")
    await reader.page.click("#download summary")
    assert await seriously_wrong(reader) == []
    await reader.page.click("#job-delete")
    assert await seriously_wrong(reader) == []
    await reader.page.click("[data-answer=no]")
    await reader.page.click("#help-open")
    assert await seriously_wrong(reader) == []


async def test_it_is_dark_where_the_system_is_or_somebody_says_so(service, reading):
    """It follows the system; the button turns it, terminal and all, and that is kept."""
    reader = await reading(service, "#job=1", color_scheme="dark")
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    dark = await reader.page.evaluate(ground)
    await reader.page.click("#theme")
    light = await reader.page.evaluate(ground)
    assert brightness(dark) < 60
    assert brightness(light) > 200
    await reader.page.reload()
    assert await reader.page.evaluate(ground) == light
    await reader.page.emulate_media(color_scheme="light")
    await reader.page.click("#theme")
    await reader.until(f"(dark) => {ground} === dark", dark)
    terminal = "getComputedStyle(document.querySelector('.xterm-scrollable-element')).backgroundColor"
    assert brightness(await reader.page.evaluate(terminal)) < 60


def brightness(colour):
    """Of a colour as the browser says it, 0 to 255."""
    return sum(int(part) for part in colour.removeprefix("rgb(").rstrip(")").split(",")[:3]) / 3


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}px")
async def test_it_fits(service, reading, size):
    """On no screen does anything stick out sideways, in the list or in a job."""
    job = await busy(service)
    reader = await reading(service, size=size)
    await reader.live()
    sticking_out = """() => [...document.querySelectorAll('body *')].filter((each) => {
        const { right, width } = each.getBoundingClientRect();
        return width && right > innerWidth + 1 && !each.closest('.xterm, .unseen, .queues');
    }).map((each) => each.outerHTML.slice(0, 80))"""
    assert await reader.page.evaluate(sticking_out) == []
    await reader.page.evaluate(f"location.hash = 'job={job}'")
    await reader.ended("exit 1")
    assert await reader.page.evaluate(sticking_out) == []
    assert await reader.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def test_nothing_jumps(service, reading):
    """While the page loads and lives, what is there stays where it is."""
    await busy(service)
    reader = await reading(service, "#q=jump")
    await reader.open("#")
    await reader.page.evaluate("""() => {
        window.shifts = 0;
        const add = (list) => {
            for (const entry of list.getEntries()) window.shifts += entry.hadRecentInput ? 0 : entry.value;
        };
        new PerformanceObserver(add).observe({ type: 'layout-shift', buffered: true });
    }""")
    await reader.live()
    await reader.sees("#recent li")
    assert await reader.page.evaluate("window.shifts") < 0.02
