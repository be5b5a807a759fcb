"""What the tests share: a real service in a process of its own, and waiting on conditions."""

import importlib
import os
import random
import signal
import sys
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import hypothesis
import pytest

from shellrunner.keeper.slot import SlotReader
from tests.support import measurement
from tests.support.keepers import ForkServer, Talk, kept
from tests.support.selected_service import IS_CLUSTER, new_service
from tests.support.service import Service

# A shell without job control starts background commands with these ignored; what the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)

# Where this is set, each worker and each process that the tests start would compile every module again.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

TESTS: Final = Path(__file__).parent
ROOT: Final = TESTS.parent

# Its deadline for one example would measure whatever else the machine does.
hypothesis.settings.register_profile("without deadline", deadline=None)
hypothesis.settings.load_profile("without deadline")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of `tests/faults`, `tests/cluster` and `tests/postgres`."""
    parser.addoption("--faults", choices=("short", "whole"), default="short", help="how many faults are tried")
    parser.addoption("--fault-seed", type=int, help="the seed that a failed test printed")
    parser.addoption("--rounds", type=int, default=8, help="how often each race between two nodes is run")


def pytest_sessionfinish() -> None:
    """Save what was measured of the program in this process, and end the PostgreSQL that its tests have used."""
    measurement.save()
    if postgres := sys.modules.get("tests.support.postgres"):  # not imported where no test needed it
        postgres.end_all()


def pytest_collection(session: pytest.Session) -> None:
    """Import the test modules, each worker of pytest-xdist beginning at another one, where all are collected.

    In one order, each worker would compile each of them, all at the same moment, if they were never compiled before.
    """
    worker, workers = os.environ.get("PYTEST_XDIST_WORKER", ""), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if not worker or session.config.args != ["tests"]:
        return
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted(TESTS.rglob("test_*.py"))]
    begin = len(names) * int(worker.removeprefix("gw")) // workers
    for name in names[begin:] + names[:begin]:
        with warnings.catch_warnings(action="error"), suppress(Exception, pytest.skip.Exception):
            importlib.import_module(name)  # what fails is imported again by pytest, which reports it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is about SQLite where the tests run against a cluster."""
    for item in items if IS_CLUSTER else ():
        if mark := item.get_closest_marker("sqlite"):
            item.add_marker(pytest.mark.skip(reason=mark.kwargs.get("reason", "is about SQLite's file")))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with the mark `each_process` once for each process that "the server" may be in a cluster."""
    if IS_CLUSTER and (mark := metafunc.definition.get_closest_marker("each_process")):
        metafunc.parametrize("down", mark.args or ("node", "worker", "both"), indirect=True)


@pytest.fixture
async def down(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Service]:
    """Yield a service on a state directory of its own, still to be started; whatever it kept is ended afterwards.

    With the mark `real_exec` it is started as a program, not forked from one that was imported before.
    """
    real_exec = request.node.get_closest_marker("real_exec") is not None
    service = new_service(tmp_path / "state", real_exec=real_exec)
    if getattr(request, "param", "both") != "both":
        service.acts_on = [request.param]
    try:
        yield service
    finally:
        await service.clear_away()
        for line in service.log[-40:]:
            print(line)  # pytest shows it where the test failed


@pytest.fixture
async def service(down: Service) -> Service:
    """Yield the same, running."""
    await down.start()
    return down


@pytest.fixture
def open_path() -> Iterator[Path]:
    """Yield a directory that every user may enter; pytest's own are closed."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.fixture
def fork_server(tmp_path: Path) -> Iterator[ForkServer]:
    """Yield a running fork server on a state directory of its own, which ends in order afterwards."""
    server = ForkServer(tmp_path / "state")
    yield server
    server.end()


@pytest.fixture
def keeping(fork_server: ForkServer) -> Iterator[tuple[Talk, SlotReader]]:
    """Yield a keeper and its slot."""
    with kept(fork_server) as both:
        yield both


@pytest.fixture
def whole(pytestconfig: pytest.Config) -> bool:
    """Whether everything is tried, not only a short selection."""
    return bool(pytestconfig.getoption("--faults") == "whole")


@pytest.fixture
def seed(pytestconfig: pytest.Config) -> int:
    """Return the seed of every random choice in the test; printed, so that pytest shows it where the test fails."""
    chosen = pytestconfig.getoption("--fault-seed")
    number = random.SystemRandom().randrange(1 << 32) if chosen is None else int(chosen)
    print(f"seed {number}: repeat with --fault-seed {number}")
    return number
