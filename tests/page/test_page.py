"""The page at /, as a person uses it."""

import asyncio
import re

import pytest

from tests.support.service import at_fixed_port

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_command_is_run_and_watched(service, reading, tmp_path):
    """Ctrl+Enter runs what is written; its output comes while it runs; list, title and icon say how it ended."""
    reader = await reading(service)
    job = await reader.run(f"echo begun; until test -e {tmp_path}/go; do sleep 0.02; done; echo over; exit 3")
    await reader.says("begun")
    await reader.sees("#job-badge .badge", "running")
    assert (await reader.page.title()).startswith("▶ running")
    (tmp_path / "go").touch()
    await reader.ended("exit 3")
    await reader.says("over")
    assert (await reader.page.title()).startswith("✗ exit 3")
    assert "icons/bad" in await reader.page.get_attribute('link[rel="icon"]', "href")
    await reader.sees("#rows .row[data-open] .badge", "exit 3")
    assert await reader.address() == {f"job={job}"}


async def test_a_job_is_cancelled_after_a_question(service, reading):
    """A running job is cancelled only once that was confirmed, and is then recorded as cancelled."""
    reader = await reading(service)
    job = await reader.run("echo here; sleep 1000")
    await reader.says("here")
    await reader.page.click("#job-cancel")
    await reader.page.click("#confirm [data-answer=no]")
    assert not (await service.status(job))["done"]
    await reader.page.click("#job-cancel")
    await reader.page.click("#confirm [data-answer=yes]")
    await reader.ended("cancelled")
    assert (await service.result(job))["ending"] == "cancelled"


async def test_a_job_is_deleted_after_a_question(service, reading):
    """A job that is done is deleted with a confirmation, and leaves the list."""
    job = await service.submit("echo to be deleted")
    await service.result(job)
    reader = await reading(service, f"#job={job}")
    await reader.ended("exit 0")
    await reader.page.keyboard.press("d")
    await reader.page.click("#confirm [data-answer=yes]")
    await reader.sees("#job-detail", "was deleted")
    await reader.until("() => !document.querySelector('#rows [data-open]')")
    assert (await service.get(f"/api/jobs/{job}"))[0] == 404


async def test_the_list_is_searched_filtered_and_sorted_in_its_address(service, reading):
    """Search, filters and sort act on the list, stand in the address, and survive a reload."""
    mark = ": Сортировка"
    slow, quick, middling = f"sleep 0.3; {mark}", f"sleep 0.02; {mark}; exit 4", f"sleep 0.12; {mark}"
    for command in (slow, quick, middling):
        await service.run(command)
    reader = await reading(service)
    await reader.page.fill("#find", "СОРТИР")
    await reader.listed(middling, quick, slow)
    await reader.page.select_option("#sort", "-duration")
    await reader.listed(slow, middling, quick)
    await reader.page.select_option("#ending", "ok")
    await reader.listed(slow, middling)
    assert await reader.address() == {"q=СОРТИР", "sort=-duration", "ending=ok"}
    await reader.page.reload()
    await reader.listed(slow, middling)
    await reader.page.click("#clear")
    await reader.sees("#foot", "all that there are")
    assert await reader.address() == {"sort=-duration"}


async def test_the_list_lives(service, reading):
    """What others submit comes into the list and changes there; a filter takes it out again when it does not fit."""
    reader = await reading(service, "#q=lively&state=running,queued")
    await reader.live()
    job = await service.submit("sleep 1000; : lively")
    await reader.listed("sleep 1000; : lively")
    await reader.sees("#rows .badge", "running")
    await reader.sees("#queues a", "running")
    await service.ask("POST", f"/api/jobs/{job}/cancel")
    await reader.listed()


async def test_more_jobs_come_by_scrolling(service, reading):
    """A list of more than a page is read on as it is scrolled, each job once, in order."""
    ids = [await service.submit(": page after page") for _ in range(230)]
    reader = await reading(service, "#q=page after page")
    await reader.live()
    numbers = "() => [...document.querySelectorAll('#rows .number')].map((each) => Number(each.textContent))"
    first = await reader.page.evaluate(numbers)
    assert 100 <= len(first) < 230
    down = "document.querySelector('.all').scrollTo(0, 1e9)"
    await reader.until(f"(all) => ({down}, ({numbers})().length === all)", 230)
    assert await reader.page.evaluate(numbers) == sorted(ids, reverse=True)


async def test_the_end_of_the_list_is_not_overlooked(service, reading):
    """Of several things that the browser tells at once about the end of the list, the last one holds."""
    for _ in range(120):
        await service.submit(": not overlooked")
    reader = await reading(service)
    await reader.page.add_init_script("""
        const Browsers = IntersectionObserver;
        window.IntersectionObserver = class extends Browsers {
            constructor(heard, options) {
                super((entries) => heard([{ isIntersecting: false }, ...entries]), options);
            }
        };
    """)
    await reader.page.reload()
    await reader.open("#q=not overlooked")
    await reader.live()
    await reader.page.evaluate("document.querySelector('.all').scrollTo(0, 1e9)")
    await reader.until("() => document.querySelectorAll('#rows .open').length === 120")


async def test_a_killed_server_costs_no_output(tmp_path, reading):
    """The server is killed in the middle of a stream and started again: the page comes back by itself, and has each
    line once."""
    async with at_fixed_port(tmp_path / "state") as service:
        reader = await reading(service, faults=["ERR_|NetworkError"])
        await reader.run("i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo line $i; sleep 0.005; done; echo last")
        await reader.says("line 50")
        await service.kill()
        await reader.sees('#job-line[data-line="waiting"]')
        await reader.sees("#trouble", "cannot be reached")
        await service.start()
        await reader.ended("exit 0")
        assert (await reader.copied()).split("\n")[:-1] == [*(f"line {each}" for each in range(1, 401)), "last"]
        await reader.sees('#line[data-line="live"]')
        await reader.sees("#rows .badge", "exit 0")


async def test_a_proxys_502_is_not_the_end(service, reading):
    """Streams that are answered with 502 are opened anew until they are there: EventSource by itself would not."""
    job = await service.submit("echo one; sleep 2; echo two")
    reader = await reading(service)
    left = 3

    async def answer(route):
        nonlocal left
        left -= 1
        await (route.fulfill(status=502, body="<h1>Bad gateway</h1>") if left >= 0 else route.continue_())

    await reader.page.route(re.compile("/events"), answer)
    await reader.page.reload()
    await reader.sees('#line[data-line="waiting"]')
    await reader.live()
    await reader.page.evaluate(f"location.hash = 'job={job}'")
    await reader.ended("exit 0")
    assert await reader.copied() == "one\ntwo\n"
    assert left < 0


async def test_stdout_and_stderr_are_told_apart(service, reading):
    """stderr has a colour of its own, which colours of the command do not end, and either can be shown alone."""
    coloured = "printf 'err\\033[32mgreen\\033[0mstill\\n'"
    job = await service.submit(f"echo out; sleep 0.05; {coloured} >&2; sleep 0.05; echo end")
    reader = await reading(service, f"#job={job}")
    await reader.ended("exit 0")
    await reader.says("end")
    colours = """() => Object.fromEntries([...document.querySelectorAll('.xterm-rows span')].map(
        (each) => [each.textContent, getComputedStyle(each).color]))"""
    seen = await reader.page.evaluate(colours)
    assert seen["err"] == seen["still"] != seen["green"]
    assert seen["out"] == seen["end"] != seen["err"]
    await reader.page.click("[data-only=stderr]")
    await reader.until("() => !document.querySelector('.xterm-rows').innerText.includes('out')")
    assert await reader.copied() == "errgreenstill\n"
    await reader.page.click("[data-only=stdout]")
    await reader.until("() => !document.querySelector('.xterm-rows').innerText.includes('err')")
    assert await reader.copied() == "out\nend\n"


async def test_times_and_wrapping(service, reading):
    """Times come before lines, those that a carriage return draws anew too; unwrapped lines stay on one row."""
    job = await service.submit("printf '10%%\\r20%%\\n'; printf 'x%.0s' $(seq 300); echo")
    reader = await reading(service, f"#job={job}")
    await reader.ended("exit 0")
    await reader.says("20%")
    await reader.page.keyboard.press("t")
    timed = r"/\d\d:\d\d:\d\d\.\d{3} 20%/"
    await reader.until(f"() => {timed}.test(document.querySelector('.xterm-rows').innerText)")
    await reader.page.keyboard.press("t")
    await reader.page.keyboard.press("w")
    whole = """() => [...document.querySelectorAll('.xterm-rows > div')].some(
        (row) => row.innerText.startsWith('x'.repeat(300)))"""
    await reader.until(whole)
    await reader.page.keyboard.press("w")
    await reader.until(f"() => !({whole})()")


async def test_following_lets_go_and_comes_back(service, reading):
    """Output is followed until somebody scrolls up; then it stays where it is, and one key leads back."""
    job = await service.submit("seq 1 300; until test -e /proc/self/no; do sleep 0.05; echo more; done")
    reader = await reading(service, f"#job={job}")
    await reader.says("more")
    await reader.page.hover("#screen")
    await reader.page.mouse.wheel(0, -4000)
    await reader.sees("#to-end")
    before = await reader.rows()
    await reader.until("() => / \\d+ lines/.test(document.getElementById('to-end').textContent)")
    await asyncio.sleep(0)  # output goes on coming meanwhile
    assert await reader.rows() == before
    await reader.page.keyboard.press("e")
    await reader.says("more")
    await reader.until("() => document.getElementById('to-end').hidden")
    await service.ask("POST", f"/api/jobs/{job}/cancel")
    await reader.ended("cancelled")


async def test_output_is_searched(service, reading):
    """The find box counts what it finds, also far above, and goes from match to match."""
    job = await service.submit("echo needle; seq 1 500; echo NEEDLE")
    reader = await reading(service, f"#job={job}")
    await reader.ended("exit 0")
    await reader.page.keyboard.press("f")
    await reader.page.keyboard.type("needle")
    await reader.sees("#seek-count", "of 2")
    await reader.page.keyboard.press("Enter")
    await reader.page.keyboard.press("Enter")
    await reader.says("needle\n1\n2\n")
    await reader.page.keyboard.press("Escape")
    await reader.until("() => document.getElementById('seek-box').hidden")


async def test_the_box_remembers_and_a_job_is_run_again_with_changes(service, reading):
    """The arrow keys bring back earlier commands and the draft; "run again" keeps what the job had besides."""
    about = {"env": {"WORD": "secret"}, "labels": {"team": "net"}, "priority": 7}
    job = await service.submit("echo $WORD first", cwd="/tmp", **about)
    await service.result(job)
    reader = await reading(service, f"#job={job}")
    await reader.live()
    await reader.page.fill("#run-command", "draft")
    await reader.page.press("#run-command", "ArrowUp")
    await reader.until("() => document.getElementById('run-command').value === 'echo $WORD first'")
    assert await reader.page.input_value("#run-cwd") == "/tmp"
    await reader.page.press("#run-command", "ArrowDown")
    await reader.until("() => document.getElementById('run-command').value === 'draft'")
    await reader.page.click("#job-again")
    assert await reader.page.input_value("#run-env") == "WORD="
    await reader.page.fill("#run-command", "echo $WORD again")
    await reader.page.fill("#run-env", "WORD=other")
    await reader.page.click("#run-go")
    await reader.says("other again")
    _, _, again = await service.get(f"/api/jobs/{(await reader.page.text_content('#job-name')).split()[1]}")
    assert (again["cwd"], again["labels"], again["priority"]) == ("/tmp", {"team": "net"}, 7)


async def test_a_wrong_job_says_what_to_mend(service, reading):
    """What the service refuses, and what the box itself does not understand, is said beside the box."""
    reader = await reading(service)
    await reader.live()
    await reader.page.fill("#run-command", "true")
    await reader.page.click("#run-more")
    await reader.page.fill("#run-cwd", "not/absolute")
    await reader.page.press("#run-cwd", "Control+Enter")
    await reader.sees("#run-error", "cwd:")
    await reader.page.fill("#run-cwd", "")
    await reader.page.fill("#run-env", "no variable")
    await reader.page.click("#run-go")
    await reader.sees("#run-error", "is not NAME=value")


async def test_output_is_never_html(service, reading):
    """Markup in a command, its output and its labels is text; escape sequences open no links and take no mouse."""
    evil = "<img src=x onerror='faults.push(1)'>"
    escapes = r"printf '\033]8;;http://evil.test\007link\033]8;;\007\033[?1000h\n'"
    job = await service.submit(f'echo "{evil}"; {escapes}', labels={"a": evil})
    reader = await reading(service)
    await reader.sees("#rows .chip", evil)
    await reader.page.evaluate(f"location.hash = 'job={job}'")
    await reader.ended("exit 0")
    await reader.says(evil)
    assert await reader.page.locator("img").count() == 0
    assert await reader.page.locator(".enable-mouse-events").count() == 0


async def test_the_keyboard_suffices(service, reading):
    """Jobs are chosen and opened by key, Tab leads into the terminal and out of it, Escape closes."""
    for number in range(3):
        await service.run(f": by key {number}")
    reader = await reading(service, "#q=by key")
    await reader.listed(": by key 2", ": by key 1", ": by key 0")
    await reader.page.keyboard.press("j")
    await reader.page.keyboard.press("j")
    await reader.page.keyboard.press("Enter")
    await reader.ended("exit 0")
    assert await reader.page.text_content("#job-command") == ": by key 1"
    await reader.page.focus("#download summary")
    await reader.page.keyboard.press("Tab")
    assert await reader.page.evaluate("document.activeElement.className") == "xterm-helper-textarea"
    await reader.page.keyboard.press("Tab")
    assert await reader.page.evaluate("document.activeElement.className") != "xterm-helper-textarea"
    await reader.page.keyboard.press("Escape")
    await reader.until("() => job.hidden")
    assert await reader.page.evaluate("document.activeElement.textContent") == ": by key 1"


async def test_the_focus_stays_where_it_is_while_the_page_lives(service, reading):
    """Whoever stands on a bar or a queue is still there when jobs come and go."""
    await service.run(": stood upon")
    reader = await reading(service, "#q=stood")
    for place in ("#recent a", "#queues a"):
        await reader.sees(place)
        await reader.page.focus(place)
        where = await reader.page.evaluate("document.activeElement.href")
        await reader.page.evaluate("(place) => { document.querySelector(place).isOld = true; }", place)
        await service.run(": stood beside")
        await reader.until("(place) => !document.querySelector(place).isOld", place)
        assert await reader.page.evaluate("document.activeElement.href") == where


async def test_a_job_that_has_not_started_says_so(service, reading):
    """Of a job that waits nothing is said that would be true of a running one only."""
    job = await service.submit("echo later", start_at="2100-01-01T00:00:00Z")
    reader = await reading(service, f"#job={job}")
    await reader.sees("#silent", "It has not started yet.")


async def test_output_is_downloaded(service, reading):
    """The download has every byte of the stream that was chosen."""
    job = await service.submit("printf 'all of it\\n'; echo other >&2")
    reader = await reading(service, f"#job={job}")
    await reader.ended("exit 0")
    async with reader.page.expect_download() as waiting:
        await reader.page.click("#download summary")
        await reader.page.click("#download [data-stream=stdout]")
    download = await waiting.value
    assert download.suggested_filename == f"job-{job}-stdout.txt"
    assert (await asyncio.to_thread((await download.path()).read_bytes)) == b"all of it\n"


async def test_a_submission_whose_answer_was_lost_runs_once(service, reading):
    """The box says that it may be run again, and doing so finds the job that was made the first time."""
    reader = await reading(service, "#q=lost answer")
    await reader.live()
    lost = False

    async def lose(route):
        nonlocal lost
        if route.request.method != "POST" or lost:
            return await route.continue_()
        lost = True
        await route.fetch()
        return await route.abort()

    await reader.page.route("**/api/jobs", lose)
    await reader.page.fill("#run-command", ": lost answer")
    await reader.page.click("#run-go")
    await reader.sees("#run-error", "it will not run twice")
    await reader.page.click("#run-go")
    await reader.ended("exit 0")
    assert await reader.commands() == [": lost answer"]
