"""Hostile output, commands and labels do no harm to the page that displays them."""

import asyncio
from typing import Any

import pytest

from tests.support.service import Service

pytestmark = pytest.mark.asyncio(loop_scope="session")

TIMEOUT = 10  # seconds
# Each final letter makes xterm.js repeat an operation: lines, scrolling, tabs, a character.
COUNTS = "".join(f"a\\033[2147483647{final}" for final in "LMSTIZb") + "\\302\\2332147483647L"
STACKED_MARKS = "a" + "\u0301" * 60_000
SET_COLOURS = r"\033]4;1;#0000ff\007\033]10;#ff0000\007\033]11;#00ff00\007\033]12;#ff00ff\007"


@pytest.mark.parametrize(
    "writing",
    [f"printf '{COUNTS}\\n'", "printf a; yes \"$(printf '\\314\\201')\" | head -300000 | tr -d '\\n'; echo"],
    ids=["counts", "marks"],
)
async def test_no_output_blocks_the_page(service: Service, open_tab: Any, writing: str) -> None:
    """Repeat counts of two billion, or 300,000 combining marks on a letter, do not block the page."""
    job = await service.submit(f"{writing}; echo after")
    await service.result(job)
    tab = await open_tab(service, f"#job={job}")
    await asyncio.wait_for(tab.wait_for_output("after"), TIMEOUT)
    assert await asyncio.wait_for(tab.page.evaluate("1 + 1"), TIMEOUT) == 2


async def test_costly_sequences_are_written_in_small_batches(service: Service, open_tab: Any) -> None:
    """Sequences that cost a thousand times as much as a letter leave the page responsive."""
    job = await service.submit("yes \"$(printf 'a\\033[499L')\" | head -30000 | tr -d '\\n'; printf '\\nafter\\n'")
    await service.result(job)
    tab = await open_tab(service)
    await tab.wait_until_live()
    await tab.page.evaluate(f"location.hash = 'job={job}'")
    await tab.wait_until_ended("exit 0")
    for _ in range(5):
        await asyncio.wait_for(tab.page.evaluate("new Promise(requestAnimationFrame)"), TIMEOUT / 2)


async def test_a_job_cannot_change_the_colours_of_the_next_one(service: Service, open_tab: Any) -> None:
    """Terminal colours that one job sets are not in effect when another job is opened."""
    after = await service.submit("printf '\\033[31mplain\\n'")
    painted = await service.submit(f"printf '{SET_COLOURS}painted\\n'")
    tab = await open_tab(service, f"#job={after}")
    await tab.wait_for_output("plain")
    colours = """() => [getComputedStyle(document.querySelector('.xterm-scrollable-element')).backgroundColor,
        getComputedStyle(document.querySelector('.xterm-rows span')).color]"""
    before = await tab.page.evaluate(colours)
    await tab.page.evaluate(f"location.hash = 'job={painted}'")
    await tab.wait_for_output("painted")
    await tab.page.evaluate(f"location.hash = 'job={after}'")
    await tab.wait_for_output("plain")
    assert await tab.page.evaluate(colours) == before


async def test_control_characters_in_a_command_are_escaped(service: Service, open_tab: Any) -> None:
    """List, job and title show control and direction characters as code points; the copy has the original."""
    command = ": shows \u202egpj.exe \x1b[31m\x07\u2066"
    escaped = ": shows ⟨202E⟩gpj.exe ⟨1B⟩[31m⟨7⟩⟨2066⟩"
    job = await service.submit(command)
    await service.result(job)
    tab = await open_tab(service, f"#q=shows&job={job}")
    await tab.wait_until_ended("exit 0")
    await tab.wait_for_list(escaped)
    assert await tab.page.text_content("#job-command") == escaped
    assert escaped in await tab.page.title()
    await tab.page.click("#job-copy-command")
    await tab.wait_for("#job-copy-command[data-copied]")
    assert await tab.page.evaluate("navigator.clipboard.readText()") == command


async def test_stacked_marks_are_limited(service: Service, open_tab: Any) -> None:
    """Of 60,000 combining marks in a command fewer than 30 are displayed, and the job opens in time."""
    job = await service.submit(f": stacked {STACKED_MARKS}", labels={"stacked": STACKED_MARKS[:250]})
    await service.result(job)
    tab = await open_tab(service, f"#q=stacked&job={job}")
    await asyncio.wait_for(tab.wait_until_ended("exit 0"), TIMEOUT)
    assert len(await tab.page.text_content("#job-command")) < 30
