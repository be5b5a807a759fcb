"""Much output: the page stays at hand, and what is not shown is to be had."""

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="session")

# Each frame is to come soon after the last; the longest wait is what a person would feel as freezing.
FRAMES = """() => {
    window.longest = 0;
    let last = performance.now();
    const frame = (now) => {
        window.longest = Math.max(window.longest, now - last);
        last = now;
        requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
}"""
FROZEN = 1500  # milliseconds: on two cores that do much else besides
LINE = "a line of output that is as long as lines are when programs say what they do"
HUNDRED_MEGABYTES = f"yes '{LINE}' | head -c 100000000; echo; echo the very end"


async def test_a_hundred_megabytes_are_followed_without_freezing(service, reading):
    """100 MB written at full speed while it is followed: no frame takes long, and the end is there."""
    reader = await reading(service)
    await reader.live()
    await reader.page.evaluate(FRAMES)
    await reader.run(HUNDRED_MEGABYTES)
    await reader.ended("exit 0")
    await reader.says("the very end")
    assert await reader.page.evaluate("window.longest") < FROZEN
    await reader.sees("#note", "left out here")


async def test_of_a_hundred_megabytes_that_are_there_the_end_comes_first(service, reading):
    """A job that wrote 100 MB shows its end at once, and says what it leaves out."""
    job = await service.submit(HUNDRED_MEGABYTES)
    await service.result(job)
    reader = await reading(service)
    await reader.live()
    fetched = []
    reader.page.on("response", lambda response: fetched.append(response.url))
    await reader.page.evaluate(FRAMES)
    await reader.page.evaluate(f"location.hash = 'job={job}'")
    await reader.says("the very end")
    assert await reader.page.evaluate("window.longest") < FROZEN
    await reader.sees("#note", "98 MB of output are left out here")
    assert (await reader.copied()).startswith("⋯ 98 MB of output left out here")
    assert any("last_event_id=98" in url for url in fetched)


async def test_a_million_lines_are_bounded(service, reading):
    """A million short lines are taken without freezing, and the terminal keeps only so many of them."""
    reader = await reading(service)
    await reader.live()
    await reader.page.evaluate(FRAMES)
    await reader.run("seq 1 1000000")
    await reader.ended("exit 0")
    await reader.says("1000000")
    assert await reader.page.evaluate("window.longest") < FROZEN
    assert len((await reader.copied()).split("\n")) < 60_000
