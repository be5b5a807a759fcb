"""Interruptions: the service is down for a while, or the tab is hidden."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.selected_service import at_fixed_port
from tests.support.service import Service
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="session")

HIDE = """(hidden) => {
    Object.defineProperty(document, 'hidden', { get: () => hidden, configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
}"""
CONNECTION_LOST = ["ERR_|NetworkError"]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def restartable(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    """Start a service that each test of this module kills and restarts."""
    async with at_fixed_port(tmp_path_factory.mktemp("away") / "state") as running:
        yield running


async def test_a_list_requested_while_the_service_was_down_is_fetched(restartable: Any, open_tab: Any) -> None:
    """While the service is down the list reports that, not that no job matches; it is fetched after the restart."""
    await restartable.run(": requested")
    tab = await open_tab(restartable, errors=CONNECTION_LOST)
    await tab.wait_until_live()
    # Its event gives the stream an id to resume from.
    await restartable.run(": another")
    await tab.wait_for("#rows .job-link", ": another")
    await restartable.kill()
    await tab.wait_for('#connection[data-state="waiting"]')
    await tab.page.fill("#search", "requested")
    await tab.wait_for("#list-status", "cannot reach the service")
    await restartable.start()
    await tab.wait_for_list(": requested")
    await tab.wait_for("#list-status", "1 job in total")


async def test_a_job_opened_while_the_service_was_down_is_shown(restartable: Any, open_tab: Any) -> None:
    """While the service is down the job view reports that; after the restart it shows the job and no error."""
    job = await restartable.submit("echo in the end")
    await restartable.result(job)
    tab = await open_tab(restartable, errors=CONNECTION_LOST)
    await tab.wait_until_live()
    await restartable.kill()
    await tab.wait_for('#connection[data-state="waiting"]')
    await tab.page.evaluate(f"location.hash = 'job={job}'")
    await tab.wait_for('#job-connection[data-state="waiting"]')
    await tab.wait_for("#job-message", "cannot reach the service")
    await restartable.start()
    await tab.wait_until_ended("exit 0")
    await tab.wait_for_output("in the end")
    await tab.until("() => document.getElementById('job-message').hidden")


async def test_a_list_scrolled_while_the_service_was_down_is_continued(restartable: Any, open_tab: Any) -> None:
    """While the service is down the next page is not requested in a loop; it is fetched after the restart."""
    for _ in range(230):
        await restartable.submit(": on and on")
    tab = await open_tab(restartable, "#q=on and on", errors=CONNECTION_LOST)
    await tab.wait_until_live()
    await restartable.kill()
    await tab.wait_for('#connection[data-state="waiting"]')
    requested: list[str] = []
    tab.page.on("request", lambda request: requested.append(request.url))
    await tab.page.evaluate("""() => {
        window.observed = 0;
        const seen = new IntersectionObserver(() => {});
        const observe = IntersectionObserver.prototype.observe;
        IntersectionObserver.prototype.observe = function (...targets) {
            window.observed += 1;
            observe.apply(this, targets);
        };
        document.querySelector('.list').scrollTo(0, 1e9);
    }""")
    await tab.wait_for("#banner", "cannot reach the service")
    await until(lambda: any("cursor=" in url for url in requested), what="the next page is requested")
    before = await tab.page.evaluate("window.observed")
    await tab.page.evaluate("""async () => {
        for (let frame = 0; frame < 30; frame += 1) await new Promise(requestAnimationFrame);
    }""")
    assert await tab.page.evaluate("window.observed") - before < 10
    await restartable.start()
    await tab.page.evaluate("dispatchEvent(new Event('online'))")  # ends the wait of the backoff
    all_of_them = "document.querySelectorAll('#rows .job-link').length === 230"
    await tab.until(f"() => (document.querySelector('.list').scrollTo(0, 1e9), {all_of_them})")


async def test_a_stream_that_is_back_wakes_the_others(restartable: Any, open_tab: Any) -> None:
    """The list does not wait for the end of its backoff while the output of a job is live again."""
    tab = await open_tab(restartable, errors=CONNECTION_LOST)
    await tab.wait_until_live()
    await tab.page.evaluate("""() => {
        const real = setTimeout;
        window.setTimeout = (work, delay, ...more) => (delay >= 400 ? 0 : real(work, delay, ...more));
    }""")  # so no stream tries again by itself
    await restartable.kill()
    await tab.wait_for('#connection[data-state="waiting"]')
    await restartable.start()
    await tab.page.evaluate("""async () => {
        const main = document.querySelector('script[type=module]').src;
        const { EventStream } = await import(new URL('core/event-stream.js', main));
        new EventStream('/api/statuses/events', '/api/queues', { state() {}, event() {}, failed() {} }).open();
    }""")
    await tab.wait_for('#connection[data-state="live"]')


async def test_a_result_is_fetched_again_after_a_502(service: Service, open_tab: Any) -> None:
    """If the result is answered with 502 when the job ends, it is requested again and shown."""
    tab = await open_tab(service)
    failed = []

    async def answer(route: Any) -> None:
        failed.append(route.request.url)
        await (route.fulfill(status=502, body="<h1>Bad gateway</h1>") if len(failed) == 1 else route.continue_())

    await tab.page.route("**/api/results/*", answer)
    await tab.run("echo x; exit 7")
    await tab.wait_for("#job-details dt", "output")
    assert len(failed) > 1


async def test_a_hidden_tab_holds_no_connection(service: Service, open_tab: Any) -> None:
    """A hidden tab closes its streams, shows in its title how the job ends, and reconnects when it is visible."""
    job = await service.submit("echo one; until test -e /proc/self/no; do sleep 0.05; done")
    other = await service.submit("echo other; until test -e /proc/self/no; do sleep 0.05; done")
    tab = await open_tab(service)
    await tab.page.clock.install()
    await tab.open(f"#job={job}")
    await tab.wait_for_output("one")
    await tab.wait_until_live()
    closed = []
    tab.page.on("requestfailed", lambda request: closed.append(request.url.split("?")[0]))
    await tab.page.evaluate(HIDE, True)
    await tab.page.clock.run_for(11_000)
    await tab.until("() => true")
    assert {url.removeprefix(service.url) for url in closed} == {
        "/api/statuses/events",
        f"/api/statuses/{job}/events",
    }
    await service.ask("POST", f"/api/jobs/{other}/cancel")
    await service.ask("POST", f"/api/jobs/{job}/cancel")
    await service.result(job)
    await tab.page.clock.run_for(4_000)
    await tab.until("() => document.title.startsWith('■ Cancelled')")
    await tab.page.evaluate(HIDE, False)
    await tab.wait_until_live()
    await tab.wait_until_ended("cancelled")
    await tab.page.evaluate(f"location.hash = 'job={other}'")
    await tab.wait_until_ended("cancelled")


@pytest.mark.parametrize("fragment", ["since=1e99", "job=Infinity", "job=1e3", "job=-1", "job=../queues"])
async def test_an_invalid_address_shows_the_list(service: Service, open_tab: Any, fragment: str) -> None:
    """With an invalid parameter in the address the list is shown and no job is open."""
    tab = await open_tab(service, f"#{fragment}")
    await tab.wait_until_live()
    assert await tab.page.is_hidden("#job")


async def test_an_invalid_filter_is_explained_until_it_is_cleared(service: Service, open_tab: Any) -> None:
    """A filter that the service rejects is named below the list until the filters are cleared."""
    await service.run(": something")
    tab = await open_tab(service, "#state=odd")
    await tab.wait_for("#list-status", "state must be")
    await tab.page.click("#clear-filters")
    await tab.wait_for("#rows .row")
    assert "state must be" not in await tab.page.inner_text("body")
