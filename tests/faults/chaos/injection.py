"""What is done to the processes of a service: kills, stops and restarts, in an order that the seed decides."""

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Final

from tests.faults.filesystems import filled
from tests.support.service import Service
from tests.support.waiting import until

PAUSE: Final = (0.02, 0.35)  # seconds between two faults

# How often each fault is chosen. Where keepers are spared, commands are not killed either, and nothing may be lost.
_SPARING: Final = {
    "kill server": 4, "restart server": 2, "kill starting server": 1, "kill stopping server": 1, "stop server": 2,
    "reload server": 1, "start second server": 1, "kill fork server": 2, "stop fork server": 2,
    "kill server and fork server": 2, "stop keeper": 4, "stop command": 4,
}  # fmt: skip
_ALL: Final = _SPARING | {"kill keeper": 6, "kill command": 6, "kill keeper and server": 2, "kill everything": 1}
_ENDING_THE_SERVER: Final = {
    "kill server", "restart server", "kill starting server", "kill stopping server", "kill server and fork server",
    "kill keeper and server", "kill everything",
}  # fmt: skip


class Processes:
    """The processes of a service, as /proc shows them."""

    def __init__(self, state_dir: Path, run: str) -> None:
        """Look for those that work on this directory, and for commands of this run."""
        self._state_dir, self._mark = os.fsencode(state_dir), f"CHAOS={run}-".encode()

    def fork_servers(self) -> list[int]:
        """Return the pids of fork servers: they lead their session, and hold no slot.

        A keeper that has run a command on a terminal leads a session too, and has no fork server above it any more
        when that was killed.
        """
        return [pid for pid in self._helpers() if _session(pid) == pid and not self._holds_slot(pid)]

    def keepers(self) -> list[int]:
        """Return the pids of keepers: they hold a slot.

        A keeper's child that has not become its command yet holds it too, but has a keeper as parent.
        """
        holders = {pid for pid in self._helpers() if self._holds_slot(pid)}
        return [pid for pid in holders if parent(pid) not in holders]

    def commands(self) -> dict[int, tuple[str, str]]:
        """Return the pids of the processes of jobs, with the nonce and the claim token that they carry."""
        found = {}
        for pid in _pids():
            values = read_proc(pid, "environ").split(b"\0")
            nonce = next((value[6:].decode() for value in values if value.startswith(self._mark)), None)
            if nonce is not None:
                token = next((value[16:].decode() for value in values if value.startswith(b"SHELLRUNNER_JOB=")), "-")
                found[pid] = nonce, token
        return found

    def _holds_slot(self, pid: int) -> bool:
        slots = self._state_dir + b"/slots/"
        directory = f"/proc/{pid}/fd"
        with contextlib.suppress(OSError):
            for name in os.listdir(directory):
                with contextlib.suppress(OSError):
                    if os.readlink(os.fsencode(f"{directory}/{name}")).startswith(slots):
                        return True
        return False

    def _helpers(self) -> set[int]:
        words = {pid: read_proc(pid, "cmdline").split(b"\0") for pid in _pids()}
        return {pid for pid, each in words.items() if b"-I" in each and self._state_dir in each}


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def read_proc(pid: int, name: str) -> bytes:
    """Return the content of a file of /proc/PID; empty if the process is gone."""
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except OSError:
        return b""


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


class Injection:
    """Does one thing after the other to the processes of a service, and lets it work again in between."""

    def __init__(
        self, service: Service, processes: Processes, ledger: Path, seed: int, *, sparing: bool, disk: Path | None
    ) -> None:
        """Take faults from the seed, `sparing` keepers and commands of kills; `disk` is filled as well."""
        self._service, self._processes, self._ledger, self._disk = service, processes, ledger, disk
        self._chance = random.Random(f"{seed} faults {sparing}")
        self._faults = (_SPARING if sparing else _ALL) | ({"fill disk": 3} if disk else {})
        self._special: dict[str, Callable[[float], Awaitable[None]]] = {
            "restart server": self._restart,
            "kill starting server": self._kill_starting,
            "kill stopping server": self._kill_stopping,
            "reload server": self._reload,
            "start second server": self._start_second,
            "fill disk": self._fill,
        }
        self.counts: Counter[str] = Counter()
        self._filling = asyncio.Lock()
        self._lasting: set[asyncio.Task[None]] = set()  # faults that end by themselves

    async def run(self, goes_on: Callable[[], bool]) -> None:
        """Inject faults while the round goes on; then nothing is stopped any more, and the server runs."""
        faults = self._schedule()
        while goes_on():
            await asyncio.sleep(self._chance.uniform(*PAUSE))
            fault = next(faults)
            happened = await self._inject(fault, self._chance.random(), self._chance.random())
            self.counts[fault] += happened
            self.counts["faults"] += happened
            self.counts["server ended"] += fault in _ENDING_THE_SERVER
            self.counts["keeper or fork server hit"] += happened and ("keeper" in fault or "fork server" in fault)
        await asyncio.gather(*self._lasting)

    def _schedule(self) -> Iterator[str]:
        """Yield faults without end: each once, then by their weights."""
        yield from self._chance.sample(list(self._faults), len(self._faults))
        while True:
            yield from self._chance.choices(list(self._faults), list(self._faults.values()))

    async def _inject(self, fault: str, which: float, how_long: float) -> bool:
        if fault in self._special:
            await self._special[fault](how_long)
            return True
        verb, _, objects = fault.partition(" ")
        if verb == "stop":
            return self._stop(self._choose(objects, which), how_long)
        return await self._kill(objects, which)

    async def _restart(self, _: float) -> None:
        status = await self._service.stop()
        assert status == 0, f"the server ended with {status} after SIGTERM: {self._service.log[-5:]}"
        await self._start()

    async def _start(self) -> None:
        """Start the server; where the disk is full it may refuse, and is started again once there is space."""
        service = self._service
        await service.launch()
        await until(lambda: service.url or service.process.returncode is not None, what="it listens")
        if not service.url and self._disk:
            async with self._filling:
                await service.start()
        assert service.url, f"it did not start: {service.log[-5:]}"

    async def _kill_and_start(self) -> None:
        await self._service.kill()
        await self._start()

    async def _kill_starting(self, how_long: float) -> None:
        await self._service.kill()
        await self._service.launch()
        await asyncio.sleep(how_long * 0.2)
        await self._kill_and_start()

    async def _kill_stopping(self, how_long: float) -> None:
        self._service.process.terminate()
        await asyncio.sleep(how_long * 0.05)
        await self._kill_and_start()

    async def _reload(self, _: float) -> None:
        self._service.process.send_signal(signal.SIGHUP)

    async def _start_second(self, _: float) -> None:
        """Start another server on the same directory: it fails, and harms nothing."""
        second = Service(self._service.state_dir)
        await second.session.close()
        await second.launch()
        assert await second.ended() == 1, second.log

    async def _fill(self, how_long: float) -> None:
        assert self._disk is not None
        self._last(self._fill_for(self._disk, how_long))

    async def _fill_for(self, disk: Path, how_long: float) -> None:
        async with self._filling:
            with filled(disk):
                await asyncio.sleep(how_long)

    def _last(self, fault: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(fault)
        self._lasting.add(task)
        task.add_done_callback(self._lasting.discard)

    async def _kill(self, objects: str, which: float) -> bool:
        everything = ["fork server", "keepers", "commands", "server"]
        names = everything if objects == "everything" else objects.split(" and ")
        hit = False
        for name in names:
            for pid in self._choose(name, which) if name != "server" else ():
                self._announce("K", pid)
                hit |= _send(pid, signal.SIGKILL)
        if "server" in names:
            await self._kill_and_start()
            hit = True
        return hit

    def _choose(self, name: str, which: float) -> list[int]:
        match name:
            case "server":
                return [self._service.process.pid]
            case "fork server":
                return self._processes.fork_servers()
            case "keepers":
                return self._processes.keepers()
            case "commands":
                return list(self._processes.commands())
            case "keeper":
                found = self._processes.keepers()
                busy = [pid for pid in found if any(parent(each) == pid for each in self._processes.commands())]
                found = busy or found
            case _:
                found = list(self._processes.commands())
        return [found[int(which * len(found))]] if found else []

    def _announce(self, letter: str, pid: int) -> None:
        """Write into the ledger that this process of a job, if it is one, is about to be killed or stopped."""
        nonce, token = self._processes.commands().get(pid, (None, None))
        if nonce is not None:
            with self._ledger.open("a") as file:
                file.write(f"{letter} {nonce} {token} {pid}\n")

    def _stop(self, pids: list[int], how_long: float) -> bool:
        for pid in pids:
            self._announce("Z", pid)
        stopped = [pid for pid in pids if _send(pid, signal.SIGSTOP)]
        if stopped:
            self._last(self._continue(stopped, how_long))
        return bool(stopped)

    async def _continue(self, pids: list[int], how_long: float) -> None:
        await asyncio.sleep(how_long)
        for pid in pids:
            _send(pid, signal.SIGCONT)


def parent(pid: int) -> int | None:
    """Return the pid of the process's parent."""
    fields = read_proc(pid, "stat").rpartition(b")")[2].split()
    return int(fields[1]) if fields else None


def _send(pid: int, number: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False
