"""A terminal emulator that can be asked what its screen shows: tmux, with a server of its own."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from tests.support.waiting import until

IS_INSTALLED = shutil.which("tmux") is not None


class Tmux:
    """One window of a tmux server, in which a shell without a prompt of its own runs."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def ask(self, *arguments: str) -> str:
        """Run a command of tmux, and return what it prints."""
        process = await asyncio.create_subprocess_exec(
            "tmux", "-S", self._socket, "-f", "/dev/null", *arguments, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert process.returncode == 0, arguments
        return out.decode()

    async def types(self, *keys: str) -> None:
        """Press keys by their names in tmux: `Enter`, `C-c`, or characters."""
        await self.ask("send-keys", *keys)

    async def resize(self, rows: int, columns: int) -> None:
        """Make the window as large as that, and wait until its shell, which is at its prompt, has that size."""
        await self.ask("resize-window", "-x", str(columns), "-y", str(rows))
        await self.types(f"clear; until stty size | grep -qx '{rows} {columns}'; do sleep 0.05; done; clear", "Enter")
        await self.shows(lambda shown: shown.strip() == "$", "the shell is there, and nothing else")

    async def screen(self) -> str:
        """Return what the screen shows."""
        return await self.ask("capture-pane", "-p")

    async def shows(self, condition: Callable[[str], bool], what: str) -> str:
        """Wait until the screen shows something, and return it."""

        async def matching() -> str | None:
            found = await self.screen()
            return found if condition(found) else None

        try:
            return await until(matching, what=what)
        except AssertionError:
            raise AssertionError(f"{what}: {await self.screen()}") from None


@contextlib.asynccontextmanager
async def window(directory: Path, *, rows: int, columns: int, environment: Mapping[str, str]) -> AsyncIterator[Tmux]:
    """Yield a window of this size, whose shell has these variables."""
    tmux = Tmux(directory / "tmux")
    variables = [f"-e{name}={value}" for name, value in environment.items()]
    size = ("-x", str(columns), "-y", str(rows))
    await tmux.ask("new-session", "-d", *size, *variables, "PS1='$ ' exec sh")
    try:
        await tmux.ask("set-option", "-g", "window-size", "manual")
        yield tmux
    finally:
        await tmux.ask("kill-server")
