"""Stop a server at a moment of its start, and check that it exits in order and leaves nothing behind."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.support import prefork
from tests.support.processes import marked
from tests.support.waiting import WAIT_TIMEOUT, until


def handles_sigterm(pid: int) -> bool:
    """Whether the process has a handler for SIGTERM (SigCgt in proc(5))."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as file:
        caught = re.search(r"^SigCgt:\t([0-9a-f]+)", file.read(), re.MULTILINE)
        return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False


def loads_modules(pid: int) -> bool:
    """Whether the process has loaded half of its modules: a C extension of aiohttp's is mapped."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/maps") as file:
        return "aiohttp/_" in file.read()
    return False


class StartingServer:
    """A server that has been started a moment ago."""

    def __init__(self, state_dir: Path, process: prefork.PipedProcess) -> None:
        self.state_dir, self._process, self.pid = state_dir, process, process.pid

    @classmethod
    async def start(cls, state_dir: Path, *, real_exec: bool = False, **settings: str) -> "StartingServer":
        """Start a server on this directory, and do not wait for anything."""
        program = [sys.executable, "-m", "shellrunner", "serve", "--port", "0", "--state-dir", str(state_dir)]
        environment = {name: os.environ.get(name, "/") for name in ("PATH", "HOME")}
        environment |= {f"SHELLRUNNER_{name}": value for name, value in settings.items()}
        process: Any = await prefork.create_process(
            *program, env=environment, stderr=asyncio.subprocess.PIPE, real_exec=real_exec
        )
        return cls(state_dir, process)

    async def stop_when(
        self, moment: Callable[["StartingServer"], Any], signals: Sequence[int], delay: float = 0.0
    ) -> list[dict[str, Any]]:
        """Send the signals `delay` seconds after the moment has come; return the log. Fail unless it exits with 0."""
        deadline = asyncio.get_running_loop().time() + WAIT_TIMEOUT
        while not moment(self):  # without a pause: a moment is short
            if asyncio.get_running_loop().time() > deadline:
                self._process.kill()
                raise AssertionError(f"the moment never came: {(await self._process.stderr.read()).decode()}")
        await asyncio.sleep(delay)
        for signum in signals:
            with contextlib.suppress(ProcessLookupError):  # the first signal has ended it
                self._process.send_signal(signum)
        async with asyncio.timeout(WAIT_TIMEOUT):
            text = await self._process.stderr.read()
            status = await self._process.wait()
        lines = text.decode().splitlines()
        assert status == 0, f"it exited with {status}: {lines}"
        log = [json.loads(line) for line in lines]
        assert [entry for entry in log if entry["level"] in ("error", "critical", "fatal")] == []
        return log

    async def nothing_is_left(self) -> None:
        """Wait until no process of it is left, and check that no socket is, and no lock held."""
        await until(lambda: not marked(str(self.state_dir)), what="its fork server and its keepers are gone")
        slots = self.state_dir / "slots"
        assert [path.name for path in slots.glob("*") if path.is_socket()] == []

    def has(self, pattern: str) -> bool:
        """Whether the state directory has such a file."""
        return any(True for _ in self.state_dir.glob(pattern))
