"""What a command may write, or be called, without harm to the page that shows it."""

import asyncio

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="session")

SOON = 10  # seconds
# Each final letter makes xterm.js do something as often as it is told: lines, scrolling, tabs, a letter again.
COUNTS = "".join(f"a\\033[2147483647{final}" for final in "LMSTIZb") + "\\302\\2332147483647L"
PILE = "a" + "\u0301" * 60_000
REPAINTING = r"\033]4;1;#0000ff\007\033]10;#ff0000\007\033]11;#00ff00\007\033]12;#ff00ff\007"


@pytest.mark.parametrize(
    "writing",
    [f"printf '{COUNTS}\\n'", "printf a; yes \"$(printf '\\314\\201')\" | head -300000 | tr -d '\\n'; echo"],
    ids=["counts", "marks"],
)
async def test_no_output_stops_the_page(service, reading, writing):
    """Counts of two thousand million in escape sequences, or 300,000 marks on a letter, hold up nothing."""
    job = await service.submit(f"{writing}; echo after")
    await service.result(job)
    reader = await reading(service, f"#job={job}")
    await asyncio.wait_for(reader.says("after"), SOON)
    assert await asyncio.wait_for(reader.page.evaluate("1 + 1"), SOON) == 2


async def test_what_is_costly_is_taken_in_small_portions(service, reading):
    """Sequences that cost the terminal a thousand times what a letter does leave the page at hand."""
    job = await service.submit("yes \"$(printf 'a\\033[499L')\" | head -30000 | tr -d '\\n'; printf '\\nafter\\n'")
    await service.result(job)
    reader = await reading(service)
    await reader.live()
    await reader.page.evaluate(f"location.hash = 'job={job}'")
    await reader.ended("exit 0")
    for _ in range(5):
        await asyncio.wait_for(reader.page.evaluate("new Promise(requestAnimationFrame)"), SOON / 2)


async def test_a_job_cannot_repaint_the_next_one(service, reading):
    """Colours that a command gives the terminal are not there any more when another job is looked at."""
    after = await service.submit("printf '\\033[31mplain\\n'")
    painted = await service.submit(f"printf '{REPAINTING}painted\\n'")
    reader = await reading(service, f"#job={after}")
    await reader.says("plain")
    colours = """() => [getComputedStyle(document.querySelector('.xterm-scrollable-element')).backgroundColor,
        getComputedStyle(document.querySelector('.xterm-rows span')).color]"""
    before = await reader.page.evaluate(colours)
    await reader.page.evaluate(f"location.hash = 'job={painted}'")
    await reader.says("painted")
    await reader.page.evaluate(f"location.hash = 'job={after}'")
    await reader.says("plain")
    assert await reader.page.evaluate(colours) == before


async def test_a_command_shows_what_it_is(service, reading):
    """What would turn a command around or not be seen has its number in list, job and title; copied it is itself."""
    command = ": shows \u202egpj.exe \x1b[31m\x07\u2066"
    seen = ": shows ⟨202E⟩gpj.exe ⟨1B⟩[31m⟨7⟩⟨2066⟩"
    job = await service.submit(command)
    await service.result(job)
    reader = await reading(service, f"#q=shows&job={job}")
    await reader.ended("exit 0")
    await reader.listed(seen)
    assert await reader.page.text_content("#job-command") == seen
    assert seen in await reader.page.title()
    await reader.page.click("#job-copy-command")
    await reader.sees("#job-copy-command[data-done]")
    assert await reader.page.evaluate("navigator.clipboard.readText()") == command


async def test_marks_are_not_heaped_up(service, reading):
    """A command and labels with tens of thousands of marks on a letter are drawn like any others."""
    job = await service.submit(f": heap {PILE}", labels={"heap": PILE[:250]})
    await service.result(job)
    reader = await reading(service, f"#q=heap&job={job}")
    await asyncio.wait_for(reader.ended("exit 0"), SOON)
    assert len(await reader.page.text_content("#job-command")) < 30
