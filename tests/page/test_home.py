"""The home: what runs, what is next, what waits and why, what failed today, what has ended."""

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

import pytest
import pytest_asyncio

from tests.support.selected_service import at_port
from tests.support.service import Service
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="session")

SECTIONS = """() => Object.fromEntries([...document.querySelectorAll('.section')].map((section) =>
    [section.dataset.section, [...section.querySelectorAll('.job-id')].map((each) => Number(each.textContent))]))"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def small(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """Run a service in which one job runs at a time; its queue `narrow` is empty."""
    queues = '{"narrow": {"max_running": 1}}'
    async with at_port(tmp_path_factory.mktemp("home"), 0, SUPERVISOR__MAX_RUNNING=1, QUEUES=queues) as running:
        yield running


async def shown(tab: Any, expected: dict[str, list[int]]) -> None:
    """Wait until the home has exactly these sections with these jobs."""
    await tab.until(f"(expected) => JSON.stringify(({SECTIONS})()) === JSON.stringify(expected)", expected)


async def reason(tab: Any, job: int) -> str:
    """Return why a job waits, as its row shows."""
    return str(await tab.page.text_content(f"#rows [data-job='{job}'] .reason"))


async def test_the_home_sorts_jobs_by_what_they_do(small: Service, open_tab: Any) -> None:
    """Each job is in its section, the next to start is the first one, and changes are shown as they happen."""
    tab = await open_tab(small)
    await tab.wait_for("#list-status", "No jobs yet")
    await tab.wait_for("#start-commands", f"shellrunner run --server {small.url} ")
    assert await tab.page.is_hidden("#search")
    failed = (await small.run("exit 3"))["job_id"]
    lost = (await small.run(argv=["/nowhere/to/be/found"]))["job_id"]
    fine = (await small.run("true"))["job_id"]
    runs = await small.submit("sleep 1000", name="long")
    await until(lambda: small.keeper_of(runs), what="it runs")
    second, first = await small.submit(": second"), await small.submit(": first", priority=5)
    later = await small.submit(": later", start_at="2100-01-01T00:00:00Z")
    follows = await small.submit(": follows", after=[runs])
    held = await small.submit(": held", held=True)
    expected = {
        "running": [runs],
        "queued": [first, second],
        "waiting": [held, follows, later],
        "failed": [lost, failed],
        "ended": [fine, lost, failed],
    }
    await shown(tab, expected)
    assert await tab.page.is_hidden("#start")
    assert await tab.page.is_visible("#search")
    assert await tab.page.text_content(f"#rows [data-job='{runs}'] b") == "long"
    assert "2100" in await reason(tab, later)
    assert str(runs) in await reason(tab, follows)
    assert "held" in await reason(tab, held)
    assert await reason(tab, first) != ""
    await tab.wait_for(f"#rows [data-job='{held}'] .badge", "Held")
    await small.ask("POST", f"/api/jobs/{runs}/cancel")
    expected = {
        "waiting": [held, later],
        "failed": [lost, failed],
        "ended": [follows, first, second, runs, fine, lost, failed],
    }
    await shown(tab, expected)


async def test_all_failures_of_today_are_shown_and_nothing_else(service: Service, open_tab: Any) -> None:
    """Each failure is shown once, whatever its ending; neither successes nor what was cancelled or skipped are."""
    failures = [
        await service.submit("exit 1"),
        await service.submit("exit 255"),
        await service.submit("kill -TERM $$"),
        await service.submit("trap 'exit 1' TERM; sleep 1000 & wait", timeout=0.2),
        await service.submit("head -c 2000 /dev/zero", limits={"output_bytes": 1000}),
        await service.submit(argv=["/nowhere/to/be/found"]),
        await service.submit("echo lost; sleep 1000"),
    ]
    service.signal(await service.running(failures[-1]), signal.SIGKILL)
    for job in failures:
        await service.result(job)
    cancelled = await service.submit("trap 'exit 1' TERM; echo ready; sleep 1000 & wait")
    assert await service.printed(cancelled) == b"ready\n"  # its trap is set
    await service.ask("POST", f"/api/jobs/{cancelled}/cancel")
    assert (await service.result(cancelled))["exit_code"] == 1
    skipped = (await service.run(": skipped", after=[failures[0]]))["job_id"]
    fine = (await service.run("true"))["job_id"]
    tab = await open_tab(service, "#q=nothing at all")
    queries: list[str] = []
    tab.page.on("request", lambda request: queries.append(unquote(request.url)))

    async def shorten(route: Any) -> None:
        await route.continue_(url=route.request.url.replace("limit=100", "limit=2"))

    await tab.page.route("**/api/*?*limit=100*", shorten)
    await tab.page.evaluate("location.hash = ''")
    await tab.wait_for(".section[data-section=failed] .show-all")
    shown = f"() => ({SECTIONS})().failed"
    for _ in range(20):  # pages
        if not await tab.page.is_visible(".section[data-section=failed] .show-all"):
            break
        before = await tab.page.evaluate(shown)
        await tab.page.click(".section[data-section=failed] .show-all")
        await tab.until(f"(before) => JSON.stringify(({SECTIONS})().failed) !== JSON.stringify(before)", before)
    found = await tab.page.evaluate(shown)
    assert [job for job in found if job >= failures[0]] == failures[::-1]
    assert not {cancelled, skipped, fine} & set(found)
    (since,) = {query.split("completed_after=")[1].split("&")[0] for query in queries if "completed_after" in query}
    assert await tab.page.evaluate("(since) => new Date(since).toTimeString().slice(0, 8)", since) == "00:00:00"


async def test_a_filter_replaces_the_home_by_one_list(small: Service, open_tab: Any) -> None:
    """With a filter there is one list without sections; clearing it brings the home back, a queue's tab keeps it."""
    await small.run(": filtered")
    tab = await open_tab(small)
    await tab.wait_for("#rows .section[data-section=ended]")
    await tab.page.select_option("#state", "done")
    await tab.wait_for("#list-status", "in total")
    assert await tab.page.locator("#rows h2").count() == 0
    await tab.page.click("#clear-filters")
    await tab.wait_for("#rows .section[data-section=ended]")
    await tab.page.click("#queues a:has-text('narrow')")
    await tab.wait_for("#list-status", "No jobs in queue narrow yet")
    assert await tab.page.is_hidden("#clear-filters")


async def test_the_waiting_sections_are_refilled(small: Service, open_tab: Any) -> None:
    """A section shows the first few and how many there are; when those leave it, the next ones come."""
    blocker = await small.submit("sleep 1000")
    await until(lambda: small.keeper_of(blocker), what="it runs")
    queued = [await small.submit(f": refill {number}") for number in range(12)]
    tab = await open_tab(small)
    await tab.wait_for(".section[data-section=queued] .count", "12")
    await tab.until(f"(ids) => JSON.stringify(({SECTIONS})().queued) === JSON.stringify(ids)", queued[:5])
    for job in queued[:5]:
        await small.ask("POST", f"/api/jobs/{job}/cancel")
    await tab.until(f"(ids) => JSON.stringify(({SECTIONS})().queued) === JSON.stringify(ids)", queued[5:10])
    await tab.page.click(".section[data-section=queued] .show-all")
    await tab.wait_for_list(*(f": refill {number}" for number in range(5, 12)))
    await small.ask("POST", f"/api/jobs/{blocker}/cancel")


async def test_loading_is_shown_as_such(small: Service, open_tab: Any) -> None:
    """While the list, the queues or a job are fetched, the page says that it loads, and not that there are none."""
    job = (await small.run("echo out"))["job_id"]
    tab = await open_tab(small, "#q=nothing at all")
    await tab.wait_for("#list-status", "No jobs match")
    answers = asyncio.Event()

    async def hold(route: Any) -> None:
        await answers.wait()
        await route.continue_()

    await tab.page.route("**/api/**", hold)
    seen = """() => {
        window.seen = new Set();
        const look = () => {
            seen.add(document.getElementById('output-empty').innerText);
            requestAnimationFrame(look);
        };
        look();
    }"""
    await tab.page.add_init_script(f"addEventListener('DOMContentLoaded', {seen})")
    await tab.page.reload()
    await tab.open(f"#job={job}")
    await tab.page.reload()
    await tab.wait_for("#list-status", "Loading")
    await tab.wait_for("#queues", "Loading")
    await tab.wait_for("#job-loading", "Loading")
    answers.set()
    await tab.wait_until_ended("exit 0")
    await tab.wait_for_output("out")
    assert await tab.page.text_content("#job-loading") == ""
    assert await tab.page.evaluate("[...seen].filter((text) => text && !text.startsWith('Loading'))") == []


async def test_times_are_counted_in_seconds_and_name_the_future(small: Service, open_tab: Any) -> None:
    """An age begins with seconds and is rounded up, and an instant that is to come is never in the past."""
    tab = await open_tab(small)
    script = "return given.map((seconds) => module.formatAge(new Date(Date.now() - seconds * 1000).toISOString()));"
    ages = await tab.call_module(
        "core/format.js", script, [0.4, 12, 59.5, 61, 3599, 3700, -5, -90, -7205, 90_000, -90_000]
    )
    assert ages[:9] == [
        "1 s ago",
        "12 s ago",
        "1 min ago",
        "2 min ago",
        "1h 00m ago",
        "1h 02m ago",
        "in 5 s",
        "in 2 min",
        "in 2h 01m",
    ]
    assert "ago" not in ages[9] + ages[10]


async def test_there_is_one_main_heading(small: Service, open_tab: Any) -> None:
    """The page has exactly one h1, with and without an open job."""
    job = (await small.run(": heading"))["job_id"]
    for fragment in ("", f"#job={job}"):
        tab = await open_tab(small, fragment)
        await tab.wait_until_live()
        assert await tab.page.locator("h1").count() == 1


async def test_filters_are_folded_on_a_phone(small: Service, open_tab: Any) -> None:
    """On a narrow screen filters and actions on queues show when asked for; the button says how many are set."""
    tab = await open_tab(small, size=(360, 740))
    await tab.wait_until_live()
    await tab.wait_for("#queues a")
    assert await tab.page.is_hidden("#queue-pause")
    await tab.page.click("#queue-toggle")
    await tab.wait_for("#queue-pause")
    assert await tab.page.is_hidden("#state")
    await tab.page.click("#filters-toggle")
    await tab.page.select_option("#state", "done")
    await tab.wait_for("#filters-toggle", "Filters (1)")
    wide = await open_tab(small)
    assert await wide.page.is_visible("#state")


async def test_a_notification_reports_the_end_in_a_hidden_tab(small: Service, open_tab: Any) -> None:
    """If it is wanted, the end of the job that is followed is notified while the tab is hidden, and only then."""
    tab = await open_tab(small)
    await tab.page.add_init_script("""
        window.notified = [];
        window.Notification = class { constructor(title, { body }) { notified.push([title, body]); } };
        Notification.permission = 'default';
        Notification.requestPermission = async () => (Notification.permission = 'granted');
    """)
    await tab.page.reload()
    await tab.run("until test -e /proc/self/no; do sleep 0.05; done; : hidden")
    await tab.page.click("#job-notify")
    await tab.wait_for("#job-notify[aria-pressed=true]")
    await tab.page.evaluate("Object.defineProperty(document, 'hidden', { get: () => true, configurable: true })")
    job = int((await tab.page.text_content("#job-name")).split()[1])
    await small.ask("POST", f"/api/jobs/{job}/cancel")
    await tab.until("() => notified.length > 0")
    assert (await tab.page.evaluate("notified"))[0][0] == f"Job {job}: Cancelled"
    await tab.page.evaluate("Object.defineProperty(document, 'hidden', { get: () => false, configurable: true })")
    await tab.run("echo seen")
    await tab.wait_until_ended("exit 0")
    assert len(await tab.page.evaluate("notified")) == 1


async def test_a_name_leads_to_all_jobs_of_it(small: Service, open_tab: Any) -> None:
    """The name of a job is beside its number, in the title and in the list, and links to all jobs of that name."""
    for number in (1, 2):
        job = (await small.run(f": number {number}", name="named"))["job_id"]
    await small.run(": nameless")
    tab = await open_tab(small, f"#job={job}")
    await tab.wait_until_ended("exit 0")
    assert "named" in await tab.page.title()
    await tab.page.click("#job-same-name >> text=named")
    await tab.wait_for_list("named : number 2", "named : number 1")
    await tab.page.click("#label-filters button >> text=name named")
    await tab.wait_for("#rows .section[data-section=ended]")
