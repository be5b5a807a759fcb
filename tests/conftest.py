"""What the tests share: a real service in a process of its own, and waiting on conditions."""

import pytest

from tests.keepers import ForkServer, kept
from tests.service import Service


@pytest.fixture
async def service(tmp_path):
    """A running service on a state directory of its own; whatever it kept is ended afterwards."""
    running = Service(tmp_path / "state")
    await running.start()
    try:
        yield running
    finally:
        await running.clear_away()
        for line in running.log[-40:]:
            print(line)  # pytest shows it where the test failed


@pytest.fixture
def fork_server(tmp_path):
    """A running fork server on a state directory of its own, which ends in order afterwards."""
    server = ForkServer(tmp_path / "state")
    yield server
    server.end()


@pytest.fixture
def keeping(fork_server):
    """A keeper and its slot."""
    with kept(fork_server) as both:
        yield both
