"""What a call of the command line imports, which is most of its time."""

import asyncio
import re
import sys

import click
import pytest

from shellrunner.cli.verb_group import VERBS, cli
from tests.support.command_line import Typist
from tests.support.service import Service

pytestmark = pytest.mark.asyncio(loop_scope="session")

# Each takes 5 to 100 ms, and a call that follows nothing needs none of them: not even the table of `ps`.
COSTLY = {
    "aiohttp", "asyncio", "logging", "pydantic", "pydantic_core", "shutil", "sqlite3", "stringprep", "subprocess",
    "tomllib", "traceback", "typing_extensions", "wcwidth",
}  # fmt: skip
PLAIN_CALLS = (("submit", "true"), ("ps", "--all"), ("wait", "1"), ("logs", "1"))


async def imported(typist: Typist, *arguments: str) -> set[str]:
    """Return the modules that a call of the program imports."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-X", "importtime", "-m", "shellrunner", *arguments,
        env=typist.environment, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, errors = await process.communicate()
    return set(re.findall(r"^import time: .*\| +(\S+)$", errors.decode(), re.MULTILINE))


@pytest.mark.heavy
async def test_a_plain_call_imports_no_event_loop(typist: Typist, shared: Service) -> None:
    """Neither aiohttp, asyncio nor pydantic is imported to submit, list, wait for and read jobs."""
    assert (await shared.run("true"))["job_id"] >= 1
    for arguments in PLAIN_CALLS:
        loaded = await imported(typist, *arguments)
        assert "http.client" in loaded, arguments
        assert not loaded & COSTLY, arguments
        packages = {name.split(".")[1] for name in loaded if name.startswith("shellrunner.")}
        assert packages <= {
            "ascii_text", "cli", "client", "clock", "control_characters", "errors", "machine", "model",
            "peer_credentials", "process_hardening", "startup_interrupt",
        }, arguments  # fmt: skip
    assert {"aiohttp", "asyncio"} <= await imported(typist, "run", "true")


async def test_the_version_is_printed_without_parsing(typist: Typist) -> None:
    """`--version` imports five modules of ours, no click, and nothing that connects."""
    loaded = await imported(typist, "--version")
    ours = {name for name in loaded if name.startswith("shellrunner")}
    needed = {"cli", "cli.boundary", "process_hardening", "startup_interrupt"}
    assert ours == {"shellrunner", *(f"shellrunner.{name}" for name in needed)}
    assert not loaded & {"click", "json", "socket", "inspect", *COSTLY}


async def test_the_help_imports_no_verb(typist: Typist) -> None:
    """`--help` lists what verbs do without importing them; it says what they say of themselves."""
    loaded = await imported(typist, "--help")
    assert "shellrunner.cli.verb_group" in loaded
    assert not {name for name in loaded if name.startswith("shellrunner.cli.commands")}
    for name, summary in VERBS.items():
        verb = cli.get_command(click.Context(cli), name)
        assert verb is not None
        assert verb.get_short_help_str(200) == summary
