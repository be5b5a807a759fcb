"""The hosts on the page: one alone is not shown; of several, each with what runs there, and what an admin may do."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from shellrunner.store.postgres import schema
from tests.support import postgres
from tests.support.service import Service
from tests.support.waiting import until

# The claim of a job of build-2 that was declared lost, as the page of another host sees it.
LOST = """INSERT INTO unsettled
    (id, queue, token, keeper, host, spec, claimed, cancelling, kill_only, attempt, created)
    VALUES (1000, 'default', 'lost', 99, 'build-2', '{"command": "true"}', 0, 0, 0, 1, 0)"""
pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def two(tmp_path: Path) -> AsyncIterator[tuple[Service, Service, str]]:
    """Run two API nodes on one database, `build-1` and `build-2`."""
    server = postgres.shared()
    name = server.create_database(postgres.template(schema.migrate))
    nodes = [
        Service(tmp_path / each, WORKER__NAME=each, STORE__URL=server.url(name), SUPERVISOR__MAX_RUNNING=4)
        for each in ("build-1", "build-2")
    ]
    try:
        for node in nodes:
            await node.start()
        yield nodes[0], nodes[1], name
    finally:
        for node in nodes:
            await node.clear_away()
        server.drop_database(name)


async def picture(tab: Any, name: str) -> None:
    """Keep what is shown, if somebody wants to look at it."""
    if directory := os.environ.get("SHELLRUNNER_TEST_PICTURES"):
        await tab.page.screenshot(path=f"{directory}/{name}.png")


async def test_a_single_host_is_not_shown(service: Service, open_tab: Any) -> None:
    """There is nothing to choose."""
    tab = await open_tab(service)
    await tab.wait_until_live()
    await tab.until("async () => (await (await fetch('/api/workers')).json()).workers.length === 1")
    assert await tab.page.is_hidden("#hosts")
    assert await tab.page.is_hidden(".head .column-host")


async def test_hosts_are_shown_at_once(two: tuple[Service, Service, str], open_tab: Any) -> None:
    """When the page is opened, not at the first of the intervals in which they are refreshed."""
    tab = await open_tab(two[0])
    await tab.wait_for("#hosts-summary", "2 reachable")
    await tab.page.clock.install(time=0)
    await tab.page.clock.pause_at(1_000)
    try:
        async with tab.page.expect_response(lambda response: "/api/jobs?" in response.url):
            await tab.page.reload()
        await tab.page.clock.run_for(400)
        await until(lambda: tab.page.is_visible("#hosts"), what="the hosts are shown")
    finally:
        await tab.page.clock.resume()  # it is that of all tabs


async def test_hosts_are_shown_drained_and_removed(two: tuple[Service, Service, str], open_tab: Any) -> None:
    """From the panel: what is open, drained, unreachable; a job's host is in its row and in its own view."""
    first, second, database = two
    tab = await open_tab(first)
    await tab.wait_for("#hosts-summary", "2 reachable")
    await tab.page.click("#hosts summary")
    await tab.page.click("[aria-label='Drain host build-1']")
    await tab.wait_for("#host-list li:first-child .badge", "Drained")
    job = await first.submit("echo begun; sleep 1000", name="long")
    execute = postgres.shared().execute
    placed = "SELECT host FROM jobs WHERE state = 'running'"
    await until(lambda: execute(placed, database=database) == [("build-2",)], what="it runs on the other host")
    await tab.wait_for(f"[data-job='{job}'] .column-host", "build-2")
    await picture(tab, "hosts")
    execute(LOST, database=database)
    await tab.page.reload()
    await tab.page.click("#hosts summary")
    await tab.wait_for("#host-list li:last-child .host-load", "1 of 4 running · 1 lost may run on")
    execute("DELETE FROM unsettled WHERE token = 'lost'", database=database)
    await second.kill()
    gone = "UPDATE hosts SET seen = seen - interval '1 minute', unreachable = seen WHERE name = 'build-2'"
    execute(gone, database=database)
    await tab.page.reload()
    await tab.wait_for("#hosts-summary", "1 unreachable")
    await tab.wait_for(f"[data-job='{job}'] .badge", "Unreachable")
    await tab.page.click("#hosts summary")
    await picture(tab, "unreachable")
    await tab.page.click("[aria-label='Remove host build-2']")
    await tab.wait_for("dialog[open]", "The job that runs there is lost")
    await tab.page.click("dialog[open] [data-answer=yes]")
    await tab.until("() => document.getElementById('hosts').hidden")
    await tab.wait_for(f"[data-job='{job}'] .badge", "Lost")
    found = '{"ending":"exited","completed":1790000000000,"exit_code":3,"signal":null}'
    execute("UPDATE jobs SET found = %s", found, database=database)
    await tab.page.click(f"[data-job='{job}'] .job-link")
    await tab.wait_for("#job-details", "Exit 3")
    await picture(tab, "found")


async def test_a_stopped_host_is_no_alarm(two: tuple[Service, Service, str], open_tab: Any) -> None:
    """Its server was stopped, and nothing ran there: it is listed as that, and may be removed."""
    first, second, _ = two
    assert await second.stop() == 0
    tab = await open_tab(first)
    await tab.wait_for("#hosts-summary", "1 reachable · 1 stopped")
    assert await tab.page.get_attribute("#hosts", "data-alarm") is None
    await tab.page.click("#hosts summary")
    await tab.wait_for("#host-list li:last-child .badge", "Stopped")
    await picture(tab, "stopped")
    await tab.page.click("[aria-label='Remove host build-2']")
    await tab.wait_for("dialog[open]", "Nothing runs there.")
    await tab.page.click("dialog[open] [data-answer=yes]")
    await tab.until("() => document.getElementById('hosts').hidden")
