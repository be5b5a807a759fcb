"""Completion in real shells: bash and zsh in tmux."""

import shutil
from pathlib import Path

import pytest

from tests.support import prefork, tmux
from tests.support.service import Service

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(not tmux.IS_INSTALLED, reason="needs tmux"),
]

SHELLS = {
    "bash": 'bash --norc; eval "$(shellrunner completion bash)"',
    "zsh": 'zsh -f; autoload -Uz compinit; compinit -D; eval "$(shellrunner completion zsh)"',
}
# What is typed before Tab is pressed, each time, and the line that it makes.
LINES = {
    ("shellrunner ps --filter sta", "ru"): "shellrunner ps --filter state=running",
    (
        "shellrunner --server http://127.0.0.1:1 submit --limit=mem",
    ): "--server http://127.0.0.1:1 submit --limit=memory=",
    ("shellrunner submit --queue o",): "shellrunner submit --queue one",
}


@pytest.mark.heavy
@pytest.mark.parametrize("name", SHELLS)
async def test_values_are_completed(shared: Service, tmp_path: Path, name: str) -> None:
    """Values with `=` are completed in parts, without a blank between, also behind an address and in one word."""
    if shutil.which(name) is None:
        pytest.skip(f"needs {name}")
    environment = {"SHELLRUNNER_URL": shared.url, "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    async with tmux.window(tmp_path, rows=24, columns=100, environment=environment) as window:
        begin, *preparations = SHELLS[name].split("; ")
        # A login shell, as which tmux may start the first one, sets PATH by itself.
        await window.types(f"PATH={Path(prefork.SCRIPT[0]).parent}:$PATH PS1='> ' exec {begin}", "Enter")
        await window.types("; ".join([*preparations, "clear; echo ready"]), "Enter")
        await window.shows(lambda shown: shown.startswith("ready\n"), "the shell is ready")
        for typed, line in LINES.items():
            for index, part in enumerate(typed):
                await window.types(part, "Tab")
                if index < len(typed) - 1:
                    await window.shows(lambda shown: shown.rstrip().endswith("="), "the first part is completed")
            await window.shows(lambda shown: shown.rstrip().endswith(line), line)  # noqa: B023
            await window.types("C-u")
