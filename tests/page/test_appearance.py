"""Appearance and accessibility: light and dark, narrow and wide, with a screen reader."""

from typing import Any

import pytest

from tests.support.browser_tab import BrowserTab
from tests.support.service import Service

pytestmark = pytest.mark.asyncio(loop_scope="session")
pytest.importorskip("axe_playwright_python", reason="the extra `browser` is not installed")
from axe_playwright_python.async_playwright import Axe  # noqa: E402

# Buttons of the list that open a dialog, and what closes it.
DIALOGS = {"#queue-new": "#queue-dialog [data-answer=no]", "#run-templates": "#templates [data-close]"}
SIZES = [(360, 740), (1280, 800), (3840, 2160)]


async def submit_examples(service: Service) -> Any:
    """Submit jobs with several endings; returns one that failed."""
    for command in ("sleep 0.2", "exit 3", "kill -SEGV $$"):
        await service.run(command, labels={"team": "web"})
    await service.submit("sleep 1000")
    colours = "printf '\\033[31mred\\033[0m \\033[1;33myellow\\033[0m\\n'"
    return (await service.run(f"echo out; {colours}; echo err >&2; exit 1"))["job_id"]


async def serious_violations(tab: BrowserTab) -> list[Any]:
    """Return what axe reports as serious or critical."""
    found = await Axe().run(tab.page, options={"resultTypes": ["violations"]})
    return [
        (each["id"], [node["target"] for node in each["nodes"]][:5])
        for each in found.response["violations"]
        if each["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_there_are_no_serious_accessibility_violations(service: Service, open_tab: Any, scheme: str) -> None:
    """axe reports nothing serious in the home, the list, run box, job, find box and dialogs, light or dark."""
    job = await submit_examples(service)
    waiting = await service.submit(": waits", held=True, name="waits", env={"A": "b"})
    tab = await open_tab(service, color_scheme=scheme)
    await tab.wait_until_live()
    await tab.wait_for("#rows .badge", "exit 1")
    await tab.page.click("#run-toggle-options")
    await tab.page.click("#rows [type=checkbox] >> nth=0")
    assert await serious_violations(tab) == []
    for opener, closer in DIALOGS.items():
        await tab.page.click(opener)
        assert await serious_violations(tab) == [], opener
        await tab.page.click(closer)
    await tab.page.evaluate(f"location.hash = 'job={waiting}&q=waits'")
    await tab.page.click("#job-edit")
    assert await serious_violations(tab) == []
    await tab.page.click("#edit [data-answer=no]")
    await service.ask("POST", f"/api/jobs/{waiting}/cancel")
    await tab.wait_until_ended("cancelled")
    await tab.page.click("#job-rerun")
    assert await serious_violations(tab) == []
    await tab.page.click("#again [data-answer=no]")
    await tab.page.evaluate(f"location.hash = 'job={job}&label=team:web'")
    await tab.wait_until_ended("exit 1")
    await tab.page.click("#find-open")
    await tab.page.click("#screen-reader")
    await tab.page.click("#download summary")
    assert await serious_violations(tab) == []
    await tab.page.click("#job-delete")
    assert await serious_violations(tab) == []
    await tab.page.click("[data-answer=no]")
    await tab.page.click("#help-open")
    assert await serious_violations(tab) == []


async def test_the_theme_follows_the_system_and_the_button(service: Service, open_tab: Any) -> None:
    """The theme follows the system; the button changes it, with the terminal, and the choice survives a reload."""
    tab = await open_tab(service, "#job=1", color_scheme="dark")
    background = "getComputedStyle(document.documentElement).backgroundColor"
    dark = await tab.page.evaluate(background)
    await tab.page.click("#theme")
    light = await tab.page.evaluate(background)
    assert brightness(dark) < 60
    assert brightness(light) > 200
    await tab.page.reload()
    assert await tab.page.evaluate(background) == light
    await tab.page.emulate_media(color_scheme="light")
    await tab.page.click("#theme")
    await tab.until(f"(dark) => {background} === dark", dark)
    terminal = "getComputedStyle(document.querySelector('.xterm-scrollable-element')).backgroundColor"
    assert brightness(await tab.page.evaluate(terminal)) < 60


def brightness(colour: Any) -> Any:
    """Return the brightness of a computed colour, 0 to 255."""
    return sum(int(part) for part in colour.removeprefix("rgb(").rstrip(")").split(",")[:3]) / 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_typing_and_lines_have_no_serious_accessibility_violations(
    service: Service, open_tab: Any, scheme: str
) -> None:
    """axe reports nothing serious while typing into a job, in the line box, or in a part of an output."""
    typed = await service.submit("cat", tty=True, stdin={"stream": True}, labels={"axe": "typed"})
    tab = await open_tab(service, f"#job={typed}&label=axe:typed", color_scheme=scheme)
    await tab.page.click("#type")
    await tab.wait_for("#terminal.typing")
    assert await serious_violations(tab) == []
    await service.ask("POST", f"/api/jobs/{typed}/cancel")
    await tab.wait_until_ended("cancelled")
    job = (await service.run("seq 1 100; exit 1", retries={"max": 1}))["job_id"]
    await tab.page.evaluate(f"location.hash = 'job={job}-50&label=axe:typed'")
    await tab.wait_for("#job-attempts a")
    await tab.wait_for("#scroll-to-end", "Line 50:")
    await tab.page.click("#line-open")
    await tab.wait_for("#line-count", "of 200 lines")
    assert await serious_violations(tab) == []


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}px")
async def test_nothing_overflows_horizontally(service: Service, open_tab: Any, size: Any) -> None:
    """At no window size does an element of the list or of a job extend beyond the window's right edge."""
    job = await submit_examples(service)
    tab = await open_tab(service, size=size)
    await tab.wait_until_live()
    await tab.page.click("#run-toggle-options")
    await tab.page.click("#rows [type=checkbox] >> nth=0")
    overflowing = """() => [...document.querySelectorAll('body *')].filter((each) => {
        const { right, width } = each.getBoundingClientRect();
        return width && right > innerWidth + 1 && !each.closest('.xterm, .visually-hidden, .queues');
    }).map((each) => each.outerHTML.slice(0, 80))"""
    assert await tab.page.evaluate(overflowing) == []
    await tab.page.evaluate(f"location.hash = 'job={job}'")
    await tab.wait_until_ended("exit 1")
    assert await tab.page.evaluate(overflowing) == []
    assert await tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def test_the_layout_does_not_shift(service: Service, open_tab: Any) -> None:
    """The layout shift score while the page loads and updates is below 0.02, apart from the line below the list."""
    await submit_examples(service)
    tab = await open_tab(service, "#q=shift")
    await tab.open("#")
    await tab.page.evaluate("""() => {
        window.shifts = 0;
        // The line below the list moves down by as much as the list has rows.
        const isExpected = ({ hadRecentInput, sources }) =>
            hadRecentInput || sources.every(({ node }) => node?.id === 'list-status');
        const add = (list) => {
            for (const entry of list.getEntries()) window.shifts += isExpected(entry) ? 0 : entry.value;
        };
        new PerformanceObserver(add).observe({ type: 'layout-shift', buffered: true });
    }""")
    await tab.wait_until_live()
    await tab.wait_for("#recent li")
    assert await tab.page.evaluate("window.shifts") < 0.02


async def test_a_very_wide_home_has_two_columns(service: Service, open_tab: Any) -> None:
    """At 3840 pixels what runs and waits is beside what has ended; at 1280 it is above."""
    await submit_examples(service)
    for size, is_beside in (((3840, 2160), True), ((1280, 800), False)):
        tab = await open_tab(service, size=size)
        await tab.wait_for(".present .row")
        present = await tab.page.locator(".present").bounding_box()
        past = await (await tab.wait_for(".past")).bounding_box()
        assert (past["y"] == present["y"] and past["x"] >= present["x"] + present["width"]) is is_beside


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}px")
async def test_labels_and_queues_are_visible_at_every_width(service: Service, open_tab: Any, size: Any) -> None:
    """A row shows the labels of its job beside or below the command, also on a phone."""
    await service.run(": labelled row", labels={"team": "labels", "stage": "two"})
    tab = await open_tab(service, "#q=: labelled row", size=size)
    for label in ("team=labels", "stage=two"):
        chip = await tab.wait_for("#rows .column-labels .chip", label)
        box, row = await chip.bounding_box(), await tab.page.locator("#rows .row").first.bounding_box()
        assert row["x"] <= box["x"]
        assert box["x"] + box["width"] <= row["x"] + row["width"]
        assert box["y"] + box["height"] <= row["y"] + row["height"]
