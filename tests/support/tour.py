"""Documentation as a test: the blocks of a Markdown file, and what a command prints compared with what is shown.

A `console` block is run line by line against a fresh service: `$ ` begins a command, the lines below it are what it
prints. `…` stands for anything; times and durations may differ. A block after `<!-- not run: REASON -->` is left out.
A `toml` block after `<!-- tour -->` holds the service's settings.
"""

import asyncio
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.waiting import WAIT_TIMEOUT

SHOWN_URL: Final = "http://localhost:8000"

# What differs from run to run, as it is shown, and what it then may be.
_TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{3}Z"
_VARIES = re.compile(rf'(?P<left_out>…)|(?P<time>{_TIME})|(?<="duration":)(?P<seconds>[0-9.]+)')
_MAY_BE = {"left_out": ".*?", "time": _TIME, "seconds": "[0-9.e-]+"}
_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


class Block(NamedTuple):
    """A fenced block of a Markdown file: its language, its text, and the comment directly above it."""

    language: str
    text: str
    mark: str


def blocks(markdown: str) -> list[Block]:
    """Return every fenced block, in order."""
    return [Block(found["language"], found["text"], found["mark"] or "") for found in _BLOCK.finditer(markdown)]


def steps(markdown: str) -> Iterator[tuple[str, str]]:
    """Yield each command of the `console` blocks that are run, with what is shown below it."""
    for block in blocks(markdown):
        if block.language == "console" and not block.mark.startswith("not run: "):
            for step in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
                command, _, shown = step.partition("\n")
                while command.endswith("\\"):
                    rest, _, shown = shown.partition("\n")
                    command = f"{command}\n{rest}"
                yield command, shown.strip()


def settings(markdown: str) -> dict[str, str]:
    """Return the settings that the tour's service has, as environment variables without their prefix."""
    return {
        f"{section}__{key}".upper(): json.dumps(value)
        for block in blocks(markdown)
        if block.language == "toml" and block.mark == "tour"
        for section, keys in tomllib.loads(block.text).items()
        for key, value in keys.items()
    }


def matches(shown: str, printed: str) -> bool:
    """Return whether what was printed is what is shown, apart from what varies."""
    pattern, at = "", 0
    for part in _VARIES.finditer(shown):
        pattern += re.escape(shown[at : part.start()]) + _MAY_BE[str(part.lastgroup)]
        at = part.end()
    return re.fullmatch(pattern + re.escape(shown[at:]), printed, re.DOTALL) is not None


async def run_command(command: str, home: Path, url: str) -> str:
    """Run a command as a reader would, and return what it prints, without the progress that curl shows beside it."""
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    process = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", command.replace(SHOWN_URL, url).replace(".venv/bin/", ""), cwd=home,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={"PATH": path, "HOME": str(home), "SHELLRUNNER_URL": url},  # no .curlrc and no proxy of ours
    )  # fmt: skip
    printed, progress = await asyncio.wait_for(process.communicate(), WAIT_TIMEOUT)
    assert process.returncode == 0, f"$ {command}\n{printed.decode()}\n{progress.decode()}"
    return printed.decode().replace("\r\n", "\n").strip()
