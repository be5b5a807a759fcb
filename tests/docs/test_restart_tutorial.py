"""The second lesson of the tutorial: the service is killed in the middle of a followed job, and nothing is lost."""

import asyncio
import re
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support import tour
from tests.support.service import Service
from tests.support.waiting import until

LESSON: Final = (Path(__file__).parent.parent.parent / "docs/tutorial/restart.md").read_text()
SHELLRUNNER: Final = str(Path(sys.executable).with_name("shellrunner"))


def shown_commands() -> list[str]:
    """Return the commands that the lesson shows, in order."""
    blocks = [block.text for block in tour.blocks(LESSON) if block.language == "console"]
    return [line.removeprefix("$ ") for text in blocks for line in text.splitlines() if line.startswith("$ ")]


@pytest.mark.heavy
@pytest.mark.timeout(120)
async def test_the_lesson_is_true(down: Service, tmp_path: Path) -> None:
    """The follower shows every line once across kill -9 and a new start, and the exit code is the command's own."""
    commands = shown_commands()
    (submit,) = [command for command in commands if " submit " in command]
    job = submit.partition(" submit -- ")[2].replace("sleep 1;", "sleep 0.3;")
    assert job != submit
    await down.start()
    url, port = down.url, down.url.rpartition(":")[2]
    assert await tour.run_command(f"shellrunner submit -- {job}", tmp_path, url) == "1"
    follower = await asyncio.create_subprocess_exec(
        SHELLRUNNER, "logs", "-f", "1", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        env={"HOME": str(tmp_path), "SHELLRUNNER_URL": url},
    )  # fmt: skip
    assert follower.stdout is not None
    lines = [await follower.stdout.readline() for _ in range(3)]
    await down.kill()
    down.program = [port if word == "0" else word for word in down.program]
    await down.start()
    await until(lambda: down.url == url, what="the service is back at its address")
    lines += (await asyncio.wait_for(follower.stdout.read(), 60)).splitlines(keepends=True)
    assert b"".join(lines).split() == [b"%d" % number for number in range(1, 11)]
    await follower.wait()
    for command, printed in (("wait 1", "exit code 3"), ("logs 1 |", "10")):
        (shown,) = [each for each in commands if command in each]
        assert await tour.run_command(shown, tmp_path, url) == printed
        assert re.search(rf"^{printed}$", LESSON, re.MULTILINE)
