"""The service is away for a while, or the page is: what was asked for meanwhile is there in the end."""

import pytest
import pytest_asyncio

from tests.support.service import at_fixed_port

pytestmark = pytest.mark.asyncio(loop_scope="session")

HIDE = """(hidden) => {
    Object.defineProperty(document, 'hidden', { get: () => hidden, configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
}"""
LOST = ["ERR_|NetworkError"]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def mortal(tmp_path_factory):
    """A service for this module's tests, which each kill it and start it again."""
    async with at_fixed_port(tmp_path_factory.mktemp("away") / "state") as running:
        yield running


async def test_a_list_that_was_asked_for_while_the_service_was_away_is_read(mortal, reading):
    """The list says why it is empty, not that no job fits, and is read once the service is back."""
    await mortal.run(": kept apart")
    reader = await reading(mortal, faults=LOST)
    await reader.live()
    # An event, so that the stream has a place to go on from.
    await mortal.run(": something else")
    await reader.sees("#rows .open", ": something else")
    await mortal.kill()
    await reader.sees('#line[data-line="waiting"]')
    await reader.page.fill("#find", "kept apart")
    await reader.sees("#foot", "cannot be reached")
    await mortal.start()
    await reader.listed(": kept apart")
    await reader.sees("#foot", "1 job, all that there are")


async def test_a_job_that_was_opened_while_the_service_was_away_is_shown(mortal, reading):
    """It says that it is trying, and then shows the job as if nothing had been."""
    job = await mortal.submit("echo in the end")
    await mortal.result(job)
    reader = await reading(mortal, faults=LOST)
    await reader.live()
    await mortal.kill()
    await reader.sees('#line[data-line="waiting"]')
    await reader.page.evaluate(f"location.hash = 'job={job}'")
    await reader.sees('#job-line[data-line="waiting"]')
    await reader.sees("#job-detail", "cannot be reached")
    await mortal.start()
    await reader.ended("exit 0")
    await reader.says("in the end")
    await reader.until("() => document.getElementById('job-detail').hidden")


async def test_a_list_that_was_scrolled_while_the_service_was_away_is_read_on(mortal, reading):
    """Its end neither asks over and over nor is drawn all the time, and goes on once the service is back."""
    for _ in range(230):
        await mortal.submit(": on and on")
    reader = await reading(mortal, "#q=on and on", faults=LOST)
    await reader.live()
    await mortal.kill()
    await reader.sees('#line[data-line="waiting"]')
    await reader.page.evaluate("""() => {
        window.drawn = 0;
        const seen = new IntersectionObserver(() => {});
        const observe = IntersectionObserver.prototype.observe;
        IntersectionObserver.prototype.observe = function (...given) {
            window.drawn += 1;
            observe.apply(this, given);
        };
        document.querySelector('.all').scrollTo(0, 1e9);
    }""")
    await reader.sees("#trouble", "cannot be reached")
    await reader.until("() => performance.getEntriesByType('resource').some((each) => each.name.includes('cursor='))")
    before = await reader.page.evaluate("window.drawn")
    await reader.page.evaluate("""async () => {
        for (let frame = 0; frame < 30; frame += 1) await new Promise(requestAnimationFrame);
    }""")
    assert await reader.page.evaluate("window.drawn") - before < 10
    await mortal.start()
    all_of_them = "document.querySelectorAll('#rows .open').length === 230"
    await reader.until(f"() => (document.querySelector('.all').scrollTo(0, 1e9), {all_of_them})")


async def test_a_result_that_could_not_be_read_is_read_later(service, reading):
    """A proxy's 502 just when a job ends costs nothing but a moment."""
    reader = await reading(service)
    failed = []

    async def answer(route):
        failed.append(route.request.url)
        await (route.fulfill(status=502, body="<h1>Bad gateway</h1>") if len(failed) == 1 else route.continue_())

    await reader.page.route("**/api/results/*", answer)
    await reader.run("echo x; exit 7")
    await reader.sees("#job-facts dt", "output")
    assert len(failed) > 1


async def test_a_tab_that_nobody_looks_at_holds_no_connection(service, reading):
    """It lets go of its streams after a while, tells by its title how the job ends, and goes on when it is seen."""
    job = await service.submit("echo one; until test -e /proc/self/no; do sleep 0.05; done")
    other = await service.submit("echo other; until test -e /proc/self/no; do sleep 0.05; done")
    reader = await reading(service)
    await reader.page.clock.install()
    await reader.open(f"#job={job}")
    await reader.says("one")
    await reader.live()
    closed = []
    reader.page.on("requestfailed", lambda request: closed.append(request.url.split("?")[0]))
    await reader.page.evaluate(HIDE, True)
    await reader.page.clock.run_for(11_000)
    await reader.until("() => true")
    assert {url.removeprefix(service.url) for url in closed} == {
        "/api/statuses/events",
        f"/api/statuses/{job}/events",
    }
    await service.ask("POST", f"/api/jobs/{other}/cancel")
    await service.ask("POST", f"/api/jobs/{job}/cancel")
    await service.result(job)
    await reader.page.clock.run_for(4_000)
    await reader.until("() => document.title.startsWith('■ cancelled')")
    await reader.page.evaluate(HIDE, False)
    await reader.live()
    await reader.ended("cancelled")
    await reader.page.evaluate(f"location.hash = 'job={other}'")
    await reader.ended("cancelled")


@pytest.mark.parametrize("place", ["since=1e99", "job=Infinity", "job=1e3", "job=-1", "job=../queues"])
async def test_no_address_breaks_the_page(service, reading, place):
    """An address that means nothing shows the list."""
    reader = await reading(service, f"#{place}")
    await reader.live()
    assert await reader.page.is_hidden("#job")


async def test_what_is_wrong_with_an_address_is_said_as_long_as_it_is(service, reading):
    """A filter that the service refuses is named below the list, until it is taken out."""
    await service.run(": something")
    reader = await reading(service, "#state=odd")
    await reader.sees("#foot", "state must be some of")
    await reader.page.click("#clear")
    await reader.sees("#rows .row")
    assert "state must be" not in await reader.page.inner_text("body")
