"""Out of memory: commands go before the server, and a kill by the kernel is named in the job's detail."""

import os
from pathlib import Path

import pytest

from shellrunner.clock import now_ms
from shellrunner.supervisor.oom_kills import OomKills
from shellrunner.systemd.unit_files import user_service_unit
from tests.support.service import InProcess, Service

SENTENCE = "the kernel's out-of-memory killer ended {} of the service's control group meanwhile"


async def test_a_kill_beside_an_oom_kill_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counter has grown while the job ran: in `detail`; not for another signal, a cancel, or a kill later on."""
    events = tmp_path / "memory.events"
    events.write_text("low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n")
    monkeypatch.setattr("shellrunner.supervisor.supervisor.own_memory_events", lambda: str(events))
    async with InProcess(tmp_path / "state") as service:
        assert (await service.run("kill -9 $$"))["detail"] is None
        grow = f"sed -i 's/^oom_kill .*/oom_kill %d/' {events}; kill -%s $$"
        killed = await service.run(grow % (3, "KILL"))
        assert (killed["ending"], killed["signal"]) == ("signalled", "SIGKILL")
        assert killed["detail"] == SENTENCE.format("2 processes")
        assert (await service.run("kill -9 $$"))["detail"] is None
        assert (await service.run(grow % (4, "KILL")))["detail"] == SENTENCE.format("one process")
        other = await service.run(grow % (5, "TERM"))
        assert (other["signal"], other["detail"]) == ("SIGTERM", None)


def test_the_counter_may_be_missing(tmp_path: Path) -> None:
    """Without the file, or without the line, nothing is claimed; nor when the counter is smaller than before."""
    start = now_ms()
    assert OomKills(None).count_since(start) == 0
    assert OomKills(str(tmp_path / "none")).count_since(start) == 0
    path = tmp_path / "memory.events"
    path.write_text("low 0\n")
    kills = OomKills(str(path))
    path.write_text("oom_kill 9\n")
    assert kills.count_since(start) == 0
    path.write_text("oom_kill 4\n")
    kills = OomKills(str(path))
    path.write_text("oom_kill 2\n")
    assert kills.count_since(start) == 0
    path.write_text("oom_kill 3\n")
    assert kills.count_since(start) == 1
    assert kills.count_since(now_ms() + 1000) == 0


@pytest.mark.heavy
async def test_a_score_that_protects_the_server_does_not_protect_commands(tmp_path: Path) -> None:
    """OOMScoreAdjust= in the unit is the server's alone; a score above 0 stays."""
    scores = {"300": "300"} | ({"-500": "0"} if _may_lower_score() else {})
    for score, found in scores.items():
        service = Service(tmp_path / score)
        set_score = f'echo {score} >/proc/self/oom_score_adj; exec "$@"'
        service.program = ["/bin/sh", "-c", set_score, "sh", *service.program]
        await service.start()
        assert (await service.run("cat /proc/self/oom_score_adj"))["stdout"] == f"{found}\n"
        assert Path(f"/proc/{service.process.pid}/oom_score_adj").read_text() == f"{score}\n"
        await service.clear_away()


def _may_lower_score() -> bool:
    pid = os.fork()
    if pid == 0:
        try:
            Path("/proc/self/oom_score_adj").write_text("-500")
            os._exit(0)
        except OSError:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def test_a_users_own_unit_asks_for_no_score() -> None:
    """A user's systemd instance may not lower it, and would not start the service."""
    assert "OOMScoreAdjust" not in user_service_unit(["/bin/sr", "serve"])
