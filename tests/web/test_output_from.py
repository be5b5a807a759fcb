"""Plain output from a byte on: what `from` means with everything else, and that it resumes exactly."""

import asyncio
import random

import pytest

from tests.support.site import Site

OUT, ERR = b"one\ntwo\nthree\n" * 500, b"err\n" * 300


@pytest.mark.parametrize(("stream", "whole"), [("", OUT + ERR), ("&stream=stdout", OUT), ("&stream=stderr", ERR)])
async def test_n2_output_is_read_from_any_byte(site: Site, stream: str, whole: bytes) -> None:
    """N2: `from` counts the bytes of what is asked for, up to the end, followed or not; HEAD agrees."""
    job_id = await site.done(OUT, ERR)
    path = f"/api/statuses/{job_id}/output"
    for at in (0, 1, 5000 % len(whole), len(whole) - 1, len(whole)):
        for follow in ("", "&follow=true"):
            answer = await site.get(f"{path}?from={at}{stream}{follow}")
            assert (answer.status, answer.body) == (200, whole[at:])
            assert answer.headers["X-Accel-Buffering"] == "no"
        head = await site.ask("HEAD", f"{path}?from={at}{stream}")
        assert (head.status, head.headers["Content-Length"]) == (200, str(len(whole) - at))


@pytest.mark.parametrize(
    "query", ["from=-1", "from=", "from=x", "from=1.5", "from=01", "from=%2B1", "from=1&from=1", "from=5&tail=1",
              "from=9223372036854775808", "from=8201", "from=8201&follow=true", "from=1201&stream=stderr"],
)  # fmt: skip
async def test_n2_a_wrong_position_is_a_defined_answer(site: Site, query: str) -> None:
    """N2: what is no position of this output, or contradicts `tail`, is 400 and names the parameter."""
    job_id = await site.done(OUT, ERR)
    assert len(OUT + ERR) == 8200
    for verb in ("GET", "HEAD"):
        answer = await site.ask(verb, f"/api/statuses/{job_id}/output?{query}")
        assert answer.status == 400
    assert (await site.get(f"/api/statuses/{job_id}/output?{query}")).json["type"] == "/problems/bad-parameter"


async def test_n2_a_range_is_ignored(site: Site) -> None:
    """N2: `Range` does not apply to output that grows (RFC 9110, 14.2); the answer says so."""
    job_id = await site.done(OUT)
    answer = await site.get(f"/api/statuses/{job_id}/output?from=10", headers={"Range": "bytes=0-5"})
    assert (answer.status, answer.body) == (200, OUT[10:])
    assert answer.headers["Accept-Ranges"] == "none"


@pytest.mark.heavy
async def test_n2_a_cut_is_resumed_at_the_exact_byte(site: Site) -> None:
    """N2: followers that are cut at random while the job writes, and resume by what they have, get each byte once."""
    job_id = await site.submit()
    runner = site.simulated_runner()
    await runner.claim()
    chance, written = random.Random(3), []

    async def work() -> None:
        for _ in range(200):
            data = chance.randbytes(chance.randrange(1, 2000))
            runner.write(data)
            written.append(data)
            await asyncio.sleep(0.002)
        await runner.finish()

    async def follow() -> tuple[bytes, int]:
        received, cuts = b"", 0
        dice = random.Random(4)
        while True:
            path = f"/api/statuses/{job_id}/output?follow=true&from={len(received)}"
            async with site.session.get(f"http://127.0.0.1:{site.port}{path}") as answer:
                budget = dice.randrange(1, 30_000)
                async for chunk in answer.content.iter_any():
                    received += chunk[:budget]
                    budget -= len(chunk)
                    if budget <= 0:
                        cuts += 1
                        break
                else:
                    return received, cuts

    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        tasks.create_task(work())
        followers = [tasks.create_task(follow()) for _ in range(3)]
    for follower in followers:
        received, cuts = follower.result()
        assert received == b"".join(written)
        assert cuts > 3
