"""A host that returns after its jobs were declared lost: its commands run on until they end, or are ended."""

import signal
from pathlib import Path

import pytest

from tests.cluster.conftest import TwoNodes
from tests.cluster.test_deaths import ask, drain, started_at, status_at, submit
from tests.support.processes import lives
from tests.support.waiting import until

pytestmark = pytest.mark.heavy

TIMEOUT = 60.0  # seconds: several restarts on a loaded machine


async def lose_host(nodes: TwoNodes) -> None:
    """Have `a` remove `b`, which does not renew its lease at the moment."""
    nodes.execute("UPDATE hosts SET seen = seen - interval '1 hour', unreachable = seen WHERE name = 'b'")
    assert (await ask(nodes.a, "DELETE", "/api/workers/b?confirm=true"))["lost"] == 1


async def unsettled_at(nodes: TwoNodes) -> int:
    """Return how many commands of lost jobs may run on `b`, as `a` says it."""
    workers = (await ask(nodes.a, "GET", "/api/workers"))["workers"]
    return sum(each["unsettled"] for each in workers if each["host"] == "b")


@pytest.mark.parametrize("is_restarted", [False, True])
@pytest.mark.parametrize("deletes", [False, True])
async def test_a_command_that_runs_on_is_ended_from_another_node(
    nodes: TwoNodes, tmp_path: Path, *, is_restarted: bool, deletes: bool
) -> None:
    """By a cancel, which `found` says, or with its job; by the server that was away, or by the next one."""
    await drain(nodes, "a")
    pid_file = tmp_path / "pid"
    job = await submit(nodes.a, f"echo $$ > {pid_file}; exec sleep 600")
    await started_at(nodes.b, job)
    await until(lambda: pid_file.exists() and pid_file.read_text().strip())
    pid = int(pid_file.read_text())
    if is_restarted:
        await nodes.b.kill()
    else:
        nodes.b.process.send_signal(signal.SIGSTOP)
    await lose_host(nodes)
    assert (await status_at(nodes.a, job))["state"] == "done"
    if deletes:
        assert (await nodes.a.ask("DELETE", f"/api/jobs/{job}"))[0] == 204
    if is_restarted:
        await nodes.b.start()
    else:
        nodes.b.process.send_signal(signal.SIGCONT)
    if not deletes:
        await until(lambda: unsettled_at(nodes), TIMEOUT)
        assert lives(pid)
        assert (await nodes.a.ask("POST", f"/api/jobs/{job}/cancel"))[0] == 202
    await until(lambda: not lives(pid), TIMEOUT)

    async def is_settled() -> bool:
        return await unsettled_at(nodes) == 0 and len((await ask(nodes.a, "GET", "/api/workers"))["workers"]) == 2

    await until(is_settled, TIMEOUT)
    if deletes:
        assert nodes.execute("SELECT id FROM jobs") == []
    else:
        result = await ask(nodes.a, "GET", f"/api/results/{job}")
        assert (result["ending"], result["found"]["ending"]) == ("lost", "cancelled")
        assert (await nodes.a.ask("POST", f"/api/jobs/{job}/cancel"))[0] == 409
