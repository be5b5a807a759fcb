"""What the view of a job shows beside its output: live usage, attempts, dependencies."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import Service

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_the_usage_of_a_running_job_is_shown(service: Service, open_tab: Any) -> None:
    """A running job shows CPU, memory and number of processes of its tree; one that has ended no longer does."""
    job = await service.submit("sleep 1000 & sleep 1000 & wait")
    tab = await open_tab(service, f"#job={job}")
    await tab.wait_for("#job-details dd", "3 processes")
    shown = await tab.page.locator("#job-details div", has_text="Uses").inner_text()
    assert re.search(r"\d+ % CPU, [\d.]+ [KM]iB, 3 processes$", shown), shown
    await service.ask("POST", f"/api/jobs/{job}/cancel")
    await tab.wait_until_ended("cancelled")
    await tab.until("() => !document.getElementById('job-details').textContent.includes('processes')")


async def test_attempts_and_dependencies_are_links(service: Service, open_tab: Any) -> None:
    """An attempt is linked to the first line of its output, unless it wrote none; a dependency to its job."""
    before = [(await service.run(f": before {number}"))["job_id"] for number in range(2)]
    command = "echo an attempt; seq 1 10 >&2; exit 1"
    job = (await service.run(command, retries={"max": 2}, after=before))["job_id"]
    tab = await open_tab(service, f"#job={job}")
    await tab.wait_until_ended("exit 1")
    await tab.wait_for("#job-attempts li:nth-child(3) a", "Attempt 3")
    assert [await link.get_attribute("href") for link in await tab.page.locator("#job-attempts a").all()] == [
        f"#job={job}-{line}" for line in (1, 12, 23)
    ]
    await tab.page.click("#job-attempts li:nth-child(2) a")
    await tab.wait_for("#scroll-to-end", "Line 12:")
    assert await tab.address_parameters() == {f"job={job}-12"}
    await tab.page.click(f"#job-details .chain a >> text=job {before[1]}")
    await tab.wait_for("#job-name", f"Job {before[1]}")
    await tab.until("() => document.getElementById('job-attempts').hidden")


async def test_a_job_that_does_not_exist_has_only_a_message(service: Service, open_tab: Any) -> None:
    """The view says that there is no such job, without a command, a toolbar or actions; another job has them."""
    job = (await service.run("echo here", labels={"team": "web"}))["job_id"]
    tab = await open_tab(service, "#job=99999999")
    await tab.wait_for("#job-message", "there is no job 99999999")
    for part in ("#job .job-command", "#job .toolbar", "#job-rerun"):
        assert await tab.page.is_hidden(part)
    await tab.page.evaluate(f"location.hash = 'job={job}'")
    await tab.wait_for_output("here")
    assert await tab.page.is_visible("#job .toolbar")
    await tab.page.click("#job-details a >> text=team=web")
    assert "label=team:web" in await tab.address_parameters()


async def test_an_attempt_without_output_is_no_link(service: Service, open_tab: Any) -> None:
    """There is no line to which an attempt that wrote nothing could be linked."""
    job = (await service.run("exit 1", retries={"max": 1}))["job_id"]
    tab = await open_tab(service, f"#job={job}")
    await tab.wait_for("#job-attempts li:nth-child(2)", "Attempt 2")
    assert await tab.page.locator("#job-attempts a").count() == 0


async def test_dividers_show_where_a_job_was_cancelled_or_killed(service: Service, open_tab: Any) -> None:
    """A line of the page's own marks a requested cancel and an end that is no exit, in output that there is."""
    job = await service.submit("trap 'echo cleaning up; exit 1' TERM; echo working; sleep 1000 & wait")
    tab = await open_tab(service, f"#job={job}")
    await tab.wait_for_output("working")
    await service.ask("POST", f"/api/jobs/{job}/cancel")
    await tab.wait_until_ended("cancelled")
    await tab.wait_for_output("── Cancelled ──")
    shown = (await tab.copy_output()).splitlines()
    assert shown == ["working", "── Cancel requested ──", "cleaning up", "── Cancelled ──"]
    assert await selected_line(tab, "cleaning") == "2"  # a line of the page's own is no line of the output
    killed = (await service.run("echo working; kill -KILL $$"))["job_id"]
    await tab.page.evaluate(f"location.hash = 'job={killed}'")
    await tab.wait_for_output("── SIGKILL ──")
    text = "document.querySelector('#terminal .xterm-rows').textContent.trim()"
    for command, output in (("echo working; exit 1", "working"), ("kill -KILL $$", "")):
        other = (await service.run(command))["job_id"]
        await tab.page.evaluate(f"location.hash = 'job={other}'")
        await tab.wait_for("#job-name", f"Job {other}")
        await tab.until(f"(output) => {text} === output", output)  # not what the job before has written
        await tab.wait_for('#job-connection[data-state="ended"]')
        assert await tab.page.evaluate(text) == output


async def selected_line(tab: Any, text: str) -> str:
    """Select a word in the output, and return the number that the box for lines then has."""
    row = await tab.page.locator("#terminal .xterm-rows > div", has_text=text).last.bounding_box()
    await tab.page.mouse.dblclick(row["x"] + 10, row["y"] + 5)
    await tab.page.keyboard.press("g")
    number = str(await tab.page.input_value("#line-number"))
    await tab.page.keyboard.press("Escape")
    return number


async def test_dividers_show_where_attempts_ended(service: Service, open_tab: Any, tmp_path: Path) -> None:
    """Between two attempts is how the first of them ended, live and later, and lines are counted without it."""
    command = (
        f"echo >> {tmp_path}/tries; n=$(wc -l < {tmp_path}/tries); printf '\\033[31mtry %d' $n; "
        "test $n = 2 && kill -KILL $$; test $n = 3 && echo && echo last && exit; exit 4"
    )
    job = await service.submit(command, retries={"max": 3, "on": ["exited", "signalled"]}, held=True)
    tab = await open_tab(service, f"#job={job}")
    await tab.wait_for("#job-badge .badge", "Held")
    merge = {"Content-Type": "application/merge-patch+json"}
    await service.ask("PATCH", f"/api/jobs/{job}", data='{"held": false}', headers=merge)
    for again in range(2):
        await tab.wait_until_ended("exit 0")
        await tab.wait_for_output("last")
        assert (await tab.copy_output()).splitlines() == [
            "try 1", "── Attempt 1 of 4: Exit 4 ──", "try 2", "── Attempt 2 of 4: SIGKILL ──", "try 3", "last",
        ]  # fmt: skip
        # Both are parts of one line, since none of these attempts ended theirs.
        assert [await selected_line(tab, text) for text in ("try 2", "try 3", "last")] == ["1", "1", "2"]
        if not again:
            await tab.page.reload()
    await tab.page.evaluate(f"location.hash = 'job={job}-2'")
    await tab.wait_for("#scroll-to-end", "Line 2:")
    await tab.until("() => document.getElementById('excerpt').textContent.includes('Attempt 2 of 4')")
    assert await tab.copy_output() == "last"


async def test_each_attempt_begins_on_a_terminal_as_new(service: Service, open_tab: Any, tmp_path: Path) -> None:
    """What an attempt has left changed, as the screen of a program that was killed, ends with it."""
    command = (
        f"echo before; mkdir {tmp_path}/tried || {{ echo second; exit; }}; "
        "printf '\\033[?1049h\\033[31;2;5r\\033[?25ldrawn'; kill -KILL $$"
    )
    retries = {"max": 1, "on": ["signalled"]}
    job = (await service.run(command, retries=retries, tty=True, merge_stderr=True))["job_id"]
    tab = await open_tab(service, f"#job={job}")
    await tab.wait_for_output("second")
    shown = [line for line in (await tab.copy_output()).splitlines() if line and not line.startswith("mkdir")]
    assert shown == ["before", "── Attempt 1 of 2: SIGKILL ──", "before", "second"]


async def test_what_is_too_long_for_a_phone_scrolls(service: Service, open_tab: Any) -> None:
    """With many details the view of a job scrolls, and its parts stand below each other."""
    variables = {f"A_VARIABLE_{number}": "" for number in range(40)}
    job = (await service.run("exit 1", retries={"max": 1}, env=variables))["job_id"]
    tab = await open_tab(service, f"#job={job}", size=(360, 740))
    await tab.wait_for("#job-attempts li:nth-child(2)", "Attempt 2")
    details, attempts = [await tab.page.locator(f"#job-{part}").bounding_box() for part in ("details", "attempts")]
    last = await tab.page.locator("#job-details dd").last.bounding_box()
    assert last["y"] + last["height"] <= details["y"] + details["height"] + 1 <= attempts["y"] + 1
