"""C8: whichever call of the store fails, or ends the server: what was answered is true, and it works again."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest

from tests.faults.failing_store import FailingStore, Plan, failing_store
from tests.faults.store_injector import CRASHES, SQLITE

pytestmark = pytest.mark.timeout(300)

FAULTS: Final = {
    "w": [*SQLITE, "IOERR-rollback", "FULL-rollback", "NOMEM-rollback"],
    "r": [*SQLITE],
    "l": [*SQLITE],
    "f": ["EIO", "ENOSPC", "EROFS", "EMFILE", "EACCES"],
}
_CALLS: Final = {"w": 40, "r": 10, "l": 10, "f": 20}  # there are about so many, of which a short run takes one each

Shape = Callable[[str, int, str], Plan]
Round = Callable[[FailingStore, Plan], Awaitable[bool]]

# How often a call fails, from the nth on, and whether the server is killed as soon as everything is answered.
SHAPES: Final[dict[str, Shape]] = {
    "once": lambda call, first, fault: Plan(call, first, 1, fault),
    "once, then killed": lambda call, first, fault: Plan(call, first, 1, fault, kill=True),
    "three times": lambda call, first, fault: Plan(call, first, 3, fault),
    "for ever": lambda call, first, fault: Plan(call, first, 0, fault),
    "for ever, then killed": lambda call, first, fault: Plan(call, first, 0, fault, kill=True),
    "crash before": lambda call, first, _: Plan(call, first, 1, CRASHES[0]),
    "crash after": lambda call, first, _: Plan(call, first, 1, CRASHES[1]),
}
_SHORT: Final = {"once, then killed", "three times", "crash after"}


class Sweep:
    """Rounds in which the first call fails, the second, and so on, until there is none; or a sample of them."""

    def __init__(self, path: Path, seed: int, *, whole: bool) -> None:
        self._path, self._whole = path, whole
        self.chance = random.Random(seed)

    async def run(self, shape: Shape, round_: Round, step: int = 1) -> None:
        """Have a round for each call, or for one of `step` calls."""
        if self._whole:
            await asyncio.gather(*(self._all(call, shape, round_, step) for call in FAULTS))
            return
        async with failing_store(self._path / "short") as there:
            for call, number in _CALLS.items():
                await round_(there, self._plan(shape, call, self.chance.randint(1, number)))

    async def _all(self, call: str, shape: Shape, round_: Round, step: int) -> None:
        async with failing_store(self._path / call) as there:
            for first in itertools.count(self.chance.randint(1, step), step):
                if not await round_(there, self._plan(shape, call, first)):
                    break

    def _plan(self, shape: Shape, call: str, first: int) -> Plan:
        return shape(call, first, self.chance.choice(FAULTS[call]))


@pytest.fixture
def sweep(tmp_path: Path, seed: int, whole: bool) -> Sweep:
    return Sweep(tmp_path, seed, whole=whole)


@pytest.fixture
def shape(request: pytest.FixtureRequest, whole: bool) -> str:
    if not whole and request.param not in _SHORT:
        pytest.skip("only with --faults whole")
    return str(request.param)


@pytest.mark.heavy
@pytest.mark.parametrize("shape", SHAPES, indirect=True)
async def test_c8_whichever_call_of_the_store_fails(shape: str, sweep: Sweep) -> None:
    """What is refused never happens, what is accepted does, once; what runs ends truly; and it works again."""

    async def round_(there: FailingStore, plan: Plan) -> bool:
        return await there.run(plan, together=sweep.chance.random() < 0.5)

    await sweep.run(SHAPES[shape], round_, step=1 if shape in ("once", "crash before") else 4)


@pytest.mark.heavy
@pytest.mark.parametrize("shape", ["three times", "crash after"], indirect=True)
async def test_c8_whichever_call_fails_at_the_start(shape: str, sweep: Sweep) -> None:
    """It starts all the same, or ends with a reason; what runs meanwhile ends truly, and the next start works."""
    await sweep.run(SHAPES[shape], FailingStore.run_start, step=12)


@pytest.mark.heavy
@pytest.mark.parametrize("shape", ["three times", "crash before"], indirect=True)
async def test_c8_whichever_call_fails_at_the_end(shape: str, sweep: Sweep) -> None:
    """It stops all the same, and what was accepted is run by the next."""
    await sweep.run(SHAPES[shape], FailingStore.run_stop, step=3)


@pytest.mark.heavy
async def test_c8_a_crash_of_the_store_is_loud(tmp_path: Path) -> None:
    """An error that nobody foresees ends the server with a reason; nobody waits for ever, and nothing is made up."""
    async with failing_store(tmp_path / "one") as there:
        for call in ("w.begin", "r.rollback"):
            assert await there.run(Plan(call, 1, 1, "BUG"), together=True)
