"""What is done with jobs and queues: edit, hold, pause, signal, many at once; limits of queues."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.selected_service import at_port
from tests.support.service import Service
from tests.support.waiting import within

pytestmark = pytest.mark.asyncio(loop_scope="session")

LATER = "2100-01-01T00:00:00Z"
SECRETS = {"SECRET": "a", "OTHER": "b"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def own(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """Run a service whose queues may be changed."""
    queues = json.dumps({"configured": {"max_running": 1}})
    async with at_port(tmp_path_factory.mktemp("actions"), 0, SUPERVISOR__MAX_RUNNING=4, QUEUES=queues) as running:
        yield running


async def job_of(service: Service, job: int) -> Any:
    """Return a job's document."""
    return (await service.get(f"/api/jobs/{job}"))[2]


async def wait_for_message(tab: Any, message: str) -> None:
    """Wait until all is done that was done with the selected jobs: until then it says "1 of 3 jobs"."""
    await tab.wait_for(f"#selection-message >> text=/^{re.escape(message)}$/")


async def test_a_job_that_has_not_started_is_edited(own: Service, open_tab: Any) -> None:
    """The dialog has what can be changed, changes only what was changed, and explains what is wrong."""
    job = await own.submit(": edited", start_at=LATER, labels={"a": "1", "b": "2"}, timeout=60, name="before")
    tab = await open_tab(own, f"#job={job}")
    await tab.wait_for("#job-pending", "2100")
    await tab.page.click("#job-edit")
    assert await tab.page.input_value("#edit [name=timeout]") == "1m"
    await tab.page.fill("#edit [name=queue]", "nowhere")
    await tab.page.click("#edit [type=submit]")
    await tab.wait_for("#edit .field:has([name=queue]) .error")
    await tab.page.fill("#edit [name=queue]", "configured")
    await tab.page.fill("#edit [name=priority]", "9")
    await tab.page.fill("#edit [name=labels]", "b=2\nc=3")
    await tab.page.fill("#edit [name=timeout]", "")
    await tab.page.click("#edit [type=submit]")
    await tab.until("() => !edit.open")
    changed = await job_of(own, job)
    found = {key: changed[key] for key in ("queue", "priority", "labels", "timeout", "start_at")}
    expected = {"queue": "configured", "priority": 9, "labels": {"b": "2", "c": "3"}, "timeout": None}
    assert found == expected | {"start_at": "2100-01-01T00:00:00.000Z"}
    await tab.wait_for("#job-details dd", "b=2 c=3")
    await own.ask("POST", f"/api/jobs/{job}/cancel")


async def test_a_job_is_held_and_released(own: Service, open_tab: Any) -> None:
    """A held job waits until it is released, with the button or its key."""
    job = await own.submit("echo released", held=True)
    tab = await open_tab(own, f"#job={job}")
    await tab.wait_for("#job-hold", "Release")
    await tab.page.keyboard.press("h")
    await tab.wait_until_ended("exit 0")
    other = await own.submit(": to be held", start_at=LATER)
    await tab.page.evaluate(f"location.hash = 'job={other}'")
    await tab.page.click("#job-hold >> text=Hold")
    await tab.wait_for("#job-hold", "Release")
    assert (await job_of(own, other))["held"] is True
    await own.ask("POST", f"/api/jobs/{other}/cancel")


async def test_a_job_is_paused_and_resumed(own: Service, open_tab: Any) -> None:
    """A paused job is shown as such and writes nothing until it is resumed."""
    job = await own.submit("while :; do echo tick; sleep 0.02; done")
    tab = await open_tab(own, f"#job={job}")
    await tab.wait_for_output("tick")
    await tab.page.click("#job-pause")
    await tab.wait_for("#job-badge .badge", "Paused")
    await tab.wait_for("#rows [data-open] .badge", "Paused")
    await tab.page.reload()
    await tab.wait_for("#rows [data-open] .badge", "Paused")
    await tab.wait_for("#job-pause", "Resume")
    await tab.page.keyboard.press("p")
    await tab.wait_for("#job-badge .badge", "Running")
    await own.ask("POST", f"/api/jobs/{job}/cancel")


async def test_a_signal_is_sent(own: Service, open_tab: Any) -> None:
    """A signal from the menu reaches the command."""
    job = await own.submit("trap 'echo caught; exit 7' USR1; echo ready; while :; do sleep 0.02; done")
    tab = await open_tab(own, f"#job={job}")
    await tab.wait_for_output("ready")
    await tab.page.click("#job-signal summary")
    await tab.page.click("#job-signal [data-signal=SIGUSR1]")
    await tab.wait_until_ended("exit 7")
    await tab.wait_for_output("caught")


async def test_many_jobs_are_changed_at_once(own: Service, open_tab: Any) -> None:
    """Selected jobs are held, released, cancelled, run again and deleted; what was not possible is reported."""
    jobs = [await own.submit(f": many {number}", start_at=LATER) for number in range(4)]
    secret = await own.submit('printf "%s " "$SECRET" "$OTHER"; cat; : many', start_at=LATER, env=SECRETS, stdin="in")
    tab = await open_tab(own, "#q=: many")
    await tab.until("() => document.querySelectorAll('#rows .row').length === 5")
    await tab.page.click(f"[data-job='{jobs[3]}'] [type=checkbox]")
    await tab.page.click(f"[data-job='{jobs[1]}'] [type=checkbox]", modifiers=["Shift"])
    await tab.wait_for("#selection-count", "3 jobs selected")
    arrived, go = asyncio.Event(), asyncio.Event()

    async def hold(route: Any) -> None:
        arrived.set()
        await go.wait()
        await route.continue_()

    await tab.page.route(f"**/api/jobs/{jobs[2]}", hold)
    await tab.page.click("[data-bulk=hold]")
    await within(arrived.wait(), what="the request of one is under way")
    await tab.wait_for("#selection-message", "2 of 3 jobs held…")
    go.set()
    await wait_for_message(tab, "3 jobs held")
    assert [(await job_of(own, job))["held"] for job in jobs] == [False, True, True, True]
    await tab.page.click("#select-all")
    await tab.wait_for("#selection-count", "5 jobs selected")
    await tab.page.click("[data-bulk=cancel]")
    await tab.page.click("#confirm [data-answer=yes]")
    await wait_for_message(tab, "5 jobs cancelled")
    await tab.page.click(f"[data-job='{jobs[0]}'] [type=checkbox]")
    await tab.page.click(f"[data-job='{secret}'] [type=checkbox]")
    await tab.page.click("[data-bulk=again]")
    await tab.page.click("#confirm [data-answer=yes]")
    await tab.wait_for("#again-introduction")
    await tab.page.click("#again [data-answer=no]")
    await wait_for_message(tab, f"1 job submitted again. Job {secret}: need values that are not stored")
    await tab.until("() => document.querySelectorAll('#rows [data-tone=stopped]').length === 5")
    await tab.wait_for("#rows .badge", "exit 0")  # when a job might start is not repeated
    await tab.page.click("#select-all")
    await tab.page.click("[data-bulk=delete]")
    await tab.page.click("#confirm [data-answer=yes]")
    await wait_for_message(tab, "6 jobs deleted")
    await tab.wait_for_list()


async def test_secrets_of_many_jobs_are_asked_for_once(own: Service, open_tab: Any) -> None:
    """What the service does not store is asked for once for all selected jobs that miss it, and each gets its own."""
    show = ': asked; printf "%s " "$SECRET" "$OTHER"; cat'
    specs: list[Any] = [{}, {"env": {"SECRET": "a"}}, {"env": SECRETS, "stdin": "in"}]
    jobs = [(await own.run(show, **spec))["job_id"] for spec in specs]
    tab = await open_tab(own, "#q=: asked")
    await tab.until("() => document.querySelectorAll('#rows .row').length === 3")
    await tab.page.click("#select-all")
    await tab.page.click("[data-bulk=again]")
    await tab.page.click("#confirm [data-answer=yes]")
    await tab.wait_for("#again-title", "Run 2 more jobs again?")
    await tab.wait_for("#again .secret:has([name='env.SECRET'])", f"jobs {jobs[1]}, {jobs[2]}")
    await tab.wait_for("#again .secret:has([name='env.OTHER'])", f"job {jobs[2]}")
    await tab.page.fill("#again [name='env.SECRET']", "new")
    await tab.page.click("#again [type=submit]")
    await tab.wait_for("#again .form-error", "OTHER: enter its value")
    await tab.page.click("#again .secret:has([name='env.OTHER']) [type=checkbox]")
    await tab.page.fill("#again [name=stdin]", "input")
    await tab.page.click("#again [type=submit]")
    await tab.wait_for("#selection-message >> text=/^3 jobs submitted again$/")
    _, _, found = await own.get("/api/jobs?limit=3&fields=job_id,again_of")
    outputs = {job["again_of"]: (await own.result(job["job_id"]))["stdout"] for job in found["jobs"]}
    assert outputs == dict(zip(jobs, ["  ", "new  ", "new  input"], strict=True))


async def test_all_that_match_the_filters_are_cancelled_and_deleted(own: Service, open_tab: Any) -> None:
    """Beyond what is listed, the service acts on all jobs that match, after it has reported how many they are."""
    jobs = [{"command": ": filtered", "start_at": LATER} for _ in range(130)]
    status, _, _ = await own.ask("POST", "/api/jobs/batch", json={"jobs": jobs})
    assert status == 202
    kept = await own.submit(": other", start_at=LATER)
    tab = await open_tab(own, "#q=: filtered")
    await tab.until("() => document.querySelectorAll('#rows .row').length >= 100")
    await tab.page.click("#select-all")
    await tab.page.click("#selection-matching")
    assert not await tab.page.is_visible("[data-bulk=again]")
    await tab.page.click("[data-bulk=cancel]")
    await tab.wait_for("#confirm-title", "Cancel 130 jobs?")
    await tab.page.click("#confirm [data-answer=yes]")
    await tab.wait_for("#selection-message", "130 jobs cancelled")
    assert (await own.status(kept))["done"] is False
    await own.ask("POST", f"/api/jobs/{kept}/cancel")


async def test_queues_are_tabs_with_pause_and_limits(own: Service, open_tab: Any) -> None:
    """A queue is paused, resumed, added, given limits and removed; its tab shows only its jobs."""
    tab = await open_tab(own)
    await tab.wait_for("#queue-pause", "Pause all")
    await tab.page.click("#queue-new")
    await tab.page.fill("#queue-name", "added")
    await tab.page.fill("#queue-max-running", "none")
    await tab.page.click("#queue-dialog [type=submit]")
    await tab.wait_for("#queue-dialog .form-error", "not a whole number")
    await tab.page.fill("#queue-max-running", "3")
    await tab.page.click("#queue-dialog [type=submit]")
    await tab.page.click("#queues a:has-text('added')")
    await tab.wait_for("#queues [aria-current]", "0/3 running")
    await tab.page.click("#queue-pause")
    await tab.wait_for("#queues [aria-current]", "paused")
    job = await own.submit(": in added", queue="added")
    await tab.wait_for_list(": in added")
    assert "paused" in await tab.page.text_content("#rows .reason")
    await tab.page.click("#queue-limits")
    await tab.page.fill("#queue-max-running", "5")
    await tab.page.click("#queue-dialog [type=submit]")
    await tab.wait_for("#queues [aria-current]", "0/5 running")
    await tab.page.click("#queue-pause")
    await own.result(job)
    await tab.page.click("#queue-remove")
    await tab.page.click("#confirm [data-answer=yes]")
    await tab.until("() => ![...document.querySelectorAll('#queues b')].some((each) => each.textContent === 'added')")
    assert await tab.page.evaluate("location.hash") in ("", "#")
