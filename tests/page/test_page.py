"""The page at /, used in a browser."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from shellrunner.model import Ending
from tests.support.selected_service import at_fixed_port
from tests.support.service import Service
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_command_is_run_and_followed(service: Service, open_tab: Any, tmp_path: Path) -> None:
    """Enter runs the command; output appears while it runs; list, title and icon show how it ended."""
    tab = await open_tab(service)
    job = await tab.run(f"echo started; until test -e {tmp_path}/go; do sleep 0.02; done; echo over; exit 3")
    await tab.wait_for_output("started")
    await tab.wait_for("#job-badge .badge", "running")
    assert (await tab.page.title()).startswith("▶ Running")
    (tmp_path / "go").touch()
    await tab.wait_until_ended("exit 3")
    await tab.wait_for_output("over")
    assert (await tab.page.title()).startswith("✗ Exit 3")
    assert "icons/failure" in await tab.page.get_attribute('link[rel="icon"]', "href")
    await tab.wait_for("#rows .row[data-open] .badge", "exit 3")
    assert await tab.address_parameters() == {f"job={job}"}


async def test_a_job_is_cancelled_after_confirmation(service: Service, open_tab: Any) -> None:
    """A running job goes on if the dialog is dismissed, and is recorded as cancelled if it is confirmed."""
    tab = await open_tab(service)
    job = await tab.run("echo here; sleep 1000")
    await tab.wait_for_output("here")
    await tab.page.click("#job-cancel")
    await tab.page.click("#confirm [data-answer=no]")
    assert not (await service.status(job))["done"]
    await tab.page.click("#job-cancel")
    await tab.page.click("#confirm [data-answer=yes]")
    await tab.wait_until_ended("cancelled")
    assert (await service.result(job))["ending"] == "cancelled"


async def test_a_job_is_deleted_after_confirmation(service: Service, open_tab: Any) -> None:
    """Confirming the dialog deletes a job that is done and removes it from the list."""
    job = await service.submit("echo to be deleted")
    await service.result(job)
    tab = await open_tab(service, f"#job={job}")
    await tab.wait_until_ended("exit 0")
    await tab.page.keyboard.press("d")
    await tab.page.click("#confirm [data-answer=yes]")
    await tab.wait_for("#job-message", "was deleted")
    await tab.until("() => !document.querySelector('#rows [data-open]')")
    assert (await service.get(f"/api/jobs/{job}"))[0] == 404


async def test_search_filters_and_sort_order_are_in_the_address(service: Service, open_tab: Any) -> None:
    """Search, filters and sort order change the list and the address, and survive a reload."""
    mark = ": Сортировка"
    slow, fast, medium = f"sleep 0.3; {mark}", f"sleep 0.02; {mark}; exit 4", f"sleep 0.12; {mark}"
    for command in (slow, fast, medium):
        await service.run(command)
    tab = await open_tab(service)
    await tab.page.fill("#search", "СОРТИР")

    async def is_searched() -> bool:
        return "q=СОРТИР" in await tab.address_parameters()

    await until(is_searched, what="the search is in the address")  # once the typist pauses
    await tab.wait_for_list(medium, fast, slow)
    asked: list[str] = []
    tab.page.on("request", lambda request: asked.append(request.url))
    await tab.page.select_option("#sort", "-duration")
    await tab.wait_for_list(slow, medium, fast)
    assert not [url for url in asked if re.search(r"/api/jobs/\d", url)]  # a row costs no request of its own
    offered = await tab.page.evaluate("[...document.querySelectorAll('#ending option')].map((each) => each.value)")
    assert offered == ["", "ok", "bad", *(ending for ending in Ending if ending is not Ending.EXITED)]
    await tab.page.select_option("#ending", "ok")
    await tab.wait_for_list(slow, medium)
    assert await tab.address_parameters() == {"q=СОРТИР", "sort=-duration", "ending=ok"}
    await tab.page.reload()
    await tab.wait_for_list(slow, medium)
    await tab.page.click("#clear-filters")
    # All jobs of this service: what the other tests have submitted may be more than a page.
    await tab.wait_for("#list-status", re.compile("in total|Scroll for more"))
    assert await tab.address_parameters() == {"sort=-duration"}


async def test_the_list_is_updated_live(service: Service, open_tab: Any) -> None:
    """A job submitted elsewhere appears, its state is updated, and it disappears once a filter excludes it."""
    tab = await open_tab(service, "#q=live list&state=running,queued")
    await tab.wait_until_live()
    job = await service.submit("sleep 1000; : live list")
    await tab.wait_for_list("sleep 1000; : live list")
    await tab.wait_for("#rows .badge", "running")
    await tab.wait_for("#queues a", "running")
    await service.ask("POST", f"/api/jobs/{job}/cancel")
    await tab.wait_for_list()


async def test_scrolling_fetches_further_pages(service: Service, open_tab: Any) -> None:
    """Scrolling to the end fetches the next page until every job is listed once and in order."""
    ids = [await service.submit(": page after page") for _ in range(230)]
    tab = await open_tab(service, "#q=page after page")
    await tab.wait_until_live()
    numbers = "() => [...document.querySelectorAll('#rows .job-id')].map((each) => Number(each.textContent))"
    first = await tab.page.evaluate(numbers)
    assert 100 <= len(first) < 230
    down = "document.querySelector('.list').scrollTo(0, 1e9)"
    await tab.until(f"(all) => ({down}, ({numbers})().length === all)", 230)
    assert await tab.page.evaluate(numbers) == sorted(ids, reverse=True)


async def test_a_list_that_is_replaced_while_scrolled_to_its_end_is_continued(
    service: Service, open_tab: Any
) -> None:
    """A list whose next page was requested for the query before still fetches its own next page."""
    ids = [await service.submit(": replaced") for _ in range(120)]
    tab = await open_tab(service, "#q=: replaced")
    await tab.wait_until_live()
    old_page, new_list = asyncio.Event(), asyncio.Event()

    async def hold(route: Any) -> None:
        await (new_list if "sort=queue" in route.request.url else old_page).wait()
        await route.continue_()

    await tab.page.route(re.compile("/api/jobs.*(cursor=|sort=queue)"), hold)
    async with tab.page.expect_request(re.compile("cursor=")):
        await tab.page.evaluate("document.querySelector('.list').scrollTo(0, 1e9)")
    await tab.page.evaluate("location.hash = 'q=: replaced&sort=queue'")
    async with tab.page.expect_response(re.compile("/api/jobs.*cursor=")):
        old_page.set()
    await tab.page.evaluate("new Promise((resolve) => setTimeout(resolve, 100))")  # the observer reports in a frame
    new_list.set()
    await tab.until("(all) => document.querySelectorAll('#rows .job-link').length === all", len(ids))


async def test_the_last_intersection_entry_decides(service: Service, open_tab: Any) -> None:
    """The next page is fetched if only the last of several intersection entries reports that the end is visible."""
    for _ in range(120):
        await service.submit(": last entry")
    tab = await open_tab(service)
    await tab.page.add_init_script("""
        const Original = IntersectionObserver;
        window.IntersectionObserver = class extends Original {
            constructor(callback, options) {
                super((entries) => callback([{ isIntersecting: false }, ...entries]), options);
            }
        };
    """)
    await tab.page.reload()
    await tab.open("#q=last entry")
    await tab.wait_until_live()
    await tab.page.evaluate("document.querySelector('.list').scrollTo(0, 1e9)")
    await tab.until("() => document.querySelectorAll('#rows .job-link').length === 120")


async def test_no_output_is_lost_when_the_server_is_killed(tmp_path: Path, open_tab: Any) -> None:
    """When the server is killed during a stream and restarted, the page reconnects and has each line once."""
    async with at_fixed_port(tmp_path / "state") as service:
        tab = await open_tab(service, errors=["ERR_|NetworkError"])
        counting = "i=$((i+1)); echo line $i; sleep 0.005"
        await tab.run(f"i=0; until test -e {tmp_path}/go; do {counting}; done; echo last")
        await tab.wait_for_output("line 50")
        await service.kill()
        await tab.wait_for('#job-connection[data-state="waiting"]')
        await tab.wait_for("#banner", "cannot reach the service")
        (tmp_path / "go").touch()
        await service.start()
        await tab.wait_until_ended("exit 0")
        *lines, last, _ = (await tab.copy_output()).split("\n")
        assert lines == [f"line {each}" for each in range(1, len(lines) + 1)]
        assert last == "last"
        await tab.wait_for('#connection[data-state="live"]')
        await tab.wait_for("#rows .badge", "exit 0")


async def test_streams_are_retried_after_a_proxys_502(service: Service, open_tab: Any) -> None:
    """Streams answered with 502 are retried until they open, which EventSource alone does not do."""
    job = await service.submit("echo one; sleep 2; echo two")
    tab = await open_tab(service)
    remaining = 3

    async def answer(route: Any) -> None:
        nonlocal remaining
        remaining -= 1
        await (route.fulfill(status=502, body="<h1>Bad gateway</h1>") if remaining >= 0 else route.continue_())

    await tab.page.route(re.compile("/events"), answer)
    await tab.page.reload()
    await tab.wait_for('#connection[data-state="waiting"]')
    await tab.wait_until_live()
    await tab.page.evaluate(f"location.hash = 'job={job}'")
    await tab.wait_until_ended("exit 0")
    assert await tab.copy_output() == "one\ntwo\n"
    assert remaining < 0


async def test_stdout_and_stderr_are_distinguished(service: Service, open_tab: Any) -> None:
    """stderr keeps its own colour after the command resets colours, and either stream can be shown alone."""
    coloured = "printf 'err\\033[32mgreen\\033[0mstill\\n'"
    job = await service.submit(f"echo out; sleep 0.05; {coloured} >&2; sleep 0.05; echo end")
    tab = await open_tab(service, f"#job={job}")
    await tab.wait_until_ended("exit 0")
    await tab.wait_for_output("end")
    colours = """() => Object.fromEntries([...document.querySelectorAll('.xterm-rows span')].map(
        (each) => [each.textContent, getComputedStyle(each).color]))"""
    seen = await tab.page.evaluate(colours)
    assert seen["err"] == seen["still"] != seen["green"]
    assert seen["out"] == seen["end"] != seen["err"]
    await tab.page.click("[data-only=stderr]")
    await tab.until("() => !document.querySelector('.xterm-rows').innerText.includes('out')")
    assert await tab.copy_output() == "errgreenstill\n"
    await tab.page.click("[data-only=stdout]")
    await tab.until("() => !document.querySelector('.xterm-rows').innerText.includes('err')")
    assert await tab.copy_output() == "out\nend\n"


async def test_times_and_wrapping(service: Service, open_tab: Any) -> None:
    """Times precede lines, also those that a carriage return overwrites; an unwrapped line takes one row."""
    job = await service.submit("printf '10%%\\r20%%\\n'; printf 'x%.0s' $(seq 300); echo")
    tab = await open_tab(service, f"#job={job}")
    await tab.wait_until_ended("exit 0")
    await tab.wait_for_output("20%")
    await tab.page.keyboard.press("t")
    timed = r"/\d\d:\d\d:\d\d\.\d{3} 20%/"
    await tab.until(f"() => {timed}.test(document.querySelector('.xterm-rows').innerText)")
    await tab.page.keyboard.press("t")
    await tab.page.keyboard.press("w")
    whole = """() => [...document.querySelectorAll('.xterm-rows > div')].some(
        (row) => row.innerText.startsWith('x'.repeat(300)))"""
    await tab.until(whole)
    await tab.page.keyboard.press("w")
    await tab.until(f"() => !({whole})()")


async def test_scrolling_up_stops_following(service: Service, open_tab: Any) -> None:
    """After scrolling up the visible output does not move while more arrives; the key "e" resumes following."""
    job = await service.submit("seq 1 300; until test -e /proc/self/no; do sleep 0.05; echo more; done")
    tab = await open_tab(service, f"#job={job}")
    await tab.wait_for_output("more")
    await tab.page.hover("#terminal")
    await tab.page.mouse.wheel(0, -4000)
    await tab.wait_for("#scroll-to-end")
    before = await tab.terminal_text()
    await tab.until("() => / \\d+ lines/.test(document.getElementById('scroll-to-end').textContent)")
    assert await tab.terminal_text() == before
    await tab.page.keyboard.press("e")
    await tab.wait_for_output("more")
    await tab.until("() => document.getElementById('scroll-to-end').hidden")
    await service.ask("POST", f"/api/jobs/{job}/cancel")
    await tab.wait_until_ended("cancelled")


async def test_output_can_be_searched(service: Service, open_tab: Any) -> None:
    """The find box counts all matches, also those far above, and scrolls from one to the next."""
    job = await service.submit("echo needle; seq 1 500; echo NEEDLE")
    tab = await open_tab(service, f"#job={job}")
    await tab.wait_until_ended("exit 0")
    await tab.page.keyboard.press("f")
    await tab.page.keyboard.type("needle")
    await tab.wait_for("#find-count", "of 2")
    await tab.page.keyboard.press("Enter")
    await tab.page.keyboard.press("Enter")
    await tab.wait_for_output("needle\n1\n2\n")
    await tab.page.keyboard.press("Escape")
    await tab.until("() => document.getElementById('find-box').hidden")


async def test_output_is_never_html(service: Service, open_tab: Any) -> None:
    """Markup in a command, output and labels is text; escape sequences create no links and no mouse reports."""
    evil = "<img src=x onerror='pageErrors.push(1)'>"
    escapes = r"printf '\033]8;;http://evil.test\007link\033]8;;\007\033[?1000h\n'"
    job = await service.submit(f'echo "{evil}"; {escapes}', labels={"a": evil})
    tab = await open_tab(service)
    await tab.wait_for("#rows .chip", evil)
    await tab.page.evaluate(f"location.hash = 'job={job}'")
    await tab.wait_until_ended("exit 0")
    await tab.wait_for_output(evil)
    assert await tab.page.locator("img").count() == 0
    assert await tab.page.locator(".enable-mouse-events").count() == 0


async def test_the_page_can_be_used_by_keyboard(service: Service, open_tab: Any) -> None:
    """Keys select and open a job, Tab enters and leaves the terminal, Escape closes the job and focuses its row."""
    for number in range(3):
        await service.run(f": by key {number}")
    tab = await open_tab(service, "#q=by key")
    await tab.wait_for_list(": by key 2", ": by key 1", ": by key 0")
    await tab.page.keyboard.press("j")
    await tab.page.keyboard.press("j")
    await tab.page.keyboard.press("Enter")
    await tab.wait_until_ended("exit 0")
    assert await tab.page.text_content("#job-command") == ": by key 1"
    await tab.page.focus("#download summary")
    await tab.page.keyboard.press("Tab")
    assert await tab.page.evaluate("document.activeElement.className") == "xterm-helper-textarea"
    await tab.page.keyboard.press("Tab")
    assert await tab.page.evaluate("document.activeElement.className") != "xterm-helper-textarea"
    await tab.page.keyboard.press("Escape")
    await tab.until("() => job.hidden")
    assert await tab.page.evaluate("document.activeElement.textContent") == ": by key 1"


async def test_updates_keep_the_focus(service: Service, open_tab: Any) -> None:
    """A focused bar or queue is still focused after an update has replaced it."""
    await service.run(": focus first")
    tab = await open_tab(service, "#q=focus")
    for place in ("#recent a", "#queues a"):
        await tab.wait_for(place)
        await tab.page.focus(place)
        where = await tab.page.evaluate("document.activeElement.href")
        await tab.page.evaluate("(place) => { document.querySelector(place).isOld = true; }", place)
        await service.run(": focus second")
        await tab.until("(place) => !document.querySelector(place).isOld", place)
        assert await tab.page.evaluate("document.activeElement.href") == where


async def test_a_waiting_job_is_shown_as_not_started(service: Service, open_tab: Any) -> None:
    """For a job that waits, the output panel shows that it has not started, not that it wrote nothing."""
    job = await service.submit("echo later", start_at="2100-01-01T00:00:00Z")
    tab = await open_tab(service, f"#job={job}")
    await tab.wait_for("#output-empty", "The job has not started yet")


async def test_t2_what_was_left_behind_is_named(service: Service, open_tab: Any) -> None:
    """The details of a job name the processes that its command left behind."""
    job = await service.submit("sleep 67 & exit 0")
    left = (await service.result(job))["leftovers"]
    tab = await open_tab(service, f"#job={job}")
    await tab.wait_for("#job-details dd", f"1 process, ended with it: sleep 67 (pid {left[0]['pid']})")


async def test_output_can_be_downloaded(service: Service, open_tab: Any) -> None:
    """The download contains exactly the bytes of the selected stream."""
    job = await service.submit("printf 'all of it\\n'; echo other >&2")
    tab = await open_tab(service, f"#job={job}")
    await tab.wait_until_ended("exit 0")
    async with tab.page.expect_download() as waiting:
        await tab.page.click("#download summary")
        await tab.page.click("#download [data-stream=stdout]")
    download = await waiting.value
    assert download.suggested_filename == f"job-{job}-stdout.txt"
    assert (await asyncio.to_thread((await download.path()).read_bytes)) == b"all of it\n"


async def test_a_submission_whose_response_was_lost_runs_once(service: Service, open_tab: Any) -> None:
    """After a lost response, running the command again opens the job that the first request created."""
    tab = await open_tab(service, "#q=lost response")
    await tab.wait_until_live()
    lost = False

    async def lose(route: Any) -> Any:
        nonlocal lost
        if route.request.method != "POST" or lost:
            return await route.continue_()
        lost = True
        await route.fetch()
        return await route.abort()

    await tab.page.route("**/api/jobs", lose)
    await tab.page.fill("#run-command", ": lost response")
    await tab.page.click("#run-submit")
    await tab.wait_for("#run-error", "it will not run twice")
    await tab.page.click("#run-submit")
    await tab.wait_until_ended("exit 0")
    _, _, found = await service.get("/api/jobs?q=lost+response")
    assert [job["command"] for job in found["jobs"]] == [": lost response"]
    await tab.wait_for_list(": lost response")
