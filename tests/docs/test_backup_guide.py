"""The guide to backups: what it shows is printed, with a service that is stopped and started between."""

import re
from pathlib import Path
from typing import Final

import pytest

from tests.support import tour
from tests.support.service import Service

GUIDE: Final = (Path(__file__).parent.parent.parent / "docs/how-to/backup.md").read_text()


def shown_steps() -> list[tuple[str, str]]:
    """Return the commands of the guide with what they print."""
    steps: list[tuple[str, str]] = []
    for block in tour.blocks(GUIDE):
        for line in block.text.splitlines() if block.language == "console" else ():
            if line.startswith("$ "):
                steps.append((line.removeprefix("$ "), ""))
            else:
                steps[-1] = (steps[-1][0], f"{steps[-1][1]}\n{line}".strip())
    return steps


def comparable(text: str, home: Path) -> str:
    """Return the text without what differs from run to run."""
    text = text.replace(f"{home}/backup", "/backup").replace(f"{home}/state", "/var/lib/shellrunner")
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z|(?<=set-aside-)\w+", "TIME", text)
    return re.sub(r"[\d.]+ KiB", "SIZE", text)


@pytest.mark.heavy
@pytest.mark.sqlite(reason="a cluster's backup is a dump, which another guide has")
async def test_the_guide_is_true(down: Service, tmp_path: Path) -> None:
    """Every command that the guide shows prints what it shows."""
    await down.start()
    await down.run("echo one")
    await down.run("head -c 100000 /dev/zero")
    for command, shown in shown_steps():
        if command.startswith("systemctl stop"):
            await down.stop()
        elif command.startswith("systemctl start"):
            await down.start()
        else:
            here = command.replace("/backup", f"{tmp_path}/backup").replace(
                "/var/lib/shellrunner", f"{tmp_path}/state"
            )
            printed = await tour.run_command(here, tmp_path, down.url)
            assert not shown or comparable(printed, tmp_path) == comparable(shown, tmp_path)
    assert (await down.run("echo resumed"))["stdout"] == "resumed\n"
