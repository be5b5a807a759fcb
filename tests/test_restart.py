"""The life of the service: after kill -9 at any moment, all is as if it had never died.

S1 to S4, S6, S7, S10 and E9 of docs/explanation/failures.md.
"""

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import struct
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from benchmarks.process_tree import children

from shellrunner.keeper.identity import ProcessIdentity
from shellrunner.keeper.slot import PAGE_SIZE, SLOT_SIZE, SlotReader, slot_name
from shellrunner.supervisor.verdict import new_claim_token
from tests.support.processes import lives, marked, parent
from tests.support.selected_service import IS_CLUSTER
from tests.support.service import Service
from tests.support.waiting import until


@pytest.mark.heavy
@pytest.mark.each_process
@pytest.mark.real_exec
async def test_s2_running_jobs_go_on_through_a_restart(service: Service, tmp_path: Path) -> None:
    """Jobs that run while the service is killed end with their true codes and whole output."""
    gate = tmp_path / "gate"
    jobs = [
        await service.submit(f"echo before; while [ ! -e {gate} ]; do sleep 0.01; done; echo after; exit {code}")
        for code in range(6)
    ]
    for job in jobs:
        await service.running(job)
    await service.restart()
    assert (await service.status(jobs[0]))["state"] == "running"
    gate.touch()
    for code, job in enumerate(jobs):
        result = await service.result(job)
        assert (result["ending"], result["exit_code"], result["stdout"]) == ("exited", code, "before\nafter\n")


@pytest.mark.each_process("worker", "both")
async def test_s3_what_ended_while_it_was_down_is_recorded(service: Service, tmp_path: Path) -> None:
    """A job that ends while no server lives has its true code, its full output, and was run once."""
    ran = tmp_path / "ran"
    big = "head -c 300000 /dev/zero | tr '\\0' x"
    job = await service.submit(f"echo x >> {ran}; {big}; while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; exit 7")
    keeper = await service.running(job)
    await until(ran.exists)
    await service.kill()
    (tmp_path / "go").touch()
    await until(lambda: not lives(keeper.pid))
    await service.start()
    result = await service.result(job)
    assert (result["ending"], result["exit_code"], result["stdout_bytes"]) == ("exited", 7, 300_000)
    assert await service.raw(job) == b"x" * 300_000
    assert ran.read_text() == "x\n"


@pytest.mark.each_process
async def test_queued_jobs_stay_queued_and_run_once(service: Service, tmp_path: Path) -> None:
    """What waited for a place when the service died runs afterwards, in order, once."""
    await service.stop()
    await service.start(SUPERVISOR__MAX_RUNNING=1)
    gate = tmp_path / "gate"
    blocker = await service.submit(f"while [ ! -e {gate} ]; do sleep 0.01; done")
    await service.running(blocker)
    order = tmp_path / "order"
    jobs = [await service.submit(f"echo {n} >> {order}") for n in range(5)]
    await service.restart()
    assert {(await service.status(job))["state"] for job in jobs} == {"queued"}
    gate.touch()
    for job in jobs:
        assert (await service.result(job))["exit_code"] == 0
    assert order.read_text().split() == ["0", "1", "2", "3", "4"]


@pytest.mark.heavy
@pytest.mark.each_process
async def test_s4_killed_at_every_step_nothing_is_missing_doubled_or_false(service: Service, tmp_path: Path) -> None:
    """Through many kills of the server under load: every accepted job once, with its own code, or `lost`."""
    ledger = tmp_path / "ledger"
    accepted = {}
    chance = random.Random(4)
    stop = asyncio.Event()

    async def submitter() -> None:
        while not stop.is_set():
            code = chance.randrange(256)
            await until(lambda: service.url)
            try:
                job = await service.submit(f"echo $SHELLRUNNER_JOB_ID >> {ledger}; exit {code}")
            except (OSError, TypeError, aiohttp.ClientError):  # TypeError: it died since it was there
                await asyncio.sleep(0.02)
            else:
                accepted[job] = code

    submitters = [asyncio.create_task(submitter()) for _ in range(6)]
    for _ in range(8):
        enough = len(accepted) + 8
        await until(partial(_is_longer, accepted, enough))
        await asyncio.sleep(chance.random() * 0.5)  # the moment of the kill is what is random here
        await service.restart()
    stop.set()
    await asyncio.gather(*submitters)
    results = {job: await service.result(job) for job in accepted}
    lines = ledger.read_text().split()
    assert len(accepted) > 50
    assert len(set(lines)) == len(lines), "a job ran twice"
    for job, result in results.items():
        assert result["ending"] == "exited", result  # only the server was killed: no keeper, so nothing is lost
        assert result["exit_code"] == accepted[job]
        assert str(job) in lines
    _, _, rest = await service.get("/api/statuses?state=queued,running")
    assert rest["statuses"] == []


@pytest.mark.each_process("worker", "both")
async def test_s6_the_job_goes_on_when_nobody_reads(service: Service, tmp_path: Path) -> None:
    """With the server dead, a command that writes without pause is not held up."""
    lines = "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; echo end >&2"
    job = await service.submit(f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; {lines}")
    keeper = await service.running(job)
    await service.kill()
    (tmp_path / "go").touch()
    await until(lambda: not lives(keeper.pid))
    await service.start()
    result = await service.result(job)
    assert result["stdout"] == "".join(f"line {n}\n" for n in range(2000))
    assert result["stderr"] == "end\n"


async def test_a_killed_keepers_job_is_lost_and_leaves_no_command(service: Service) -> None:
    """kill -9 of a keeper: `lost` with the evidence, no exit code, the tree gone, the output up to then preserved."""
    mark = f"5{os.getpid()}.1"
    job = await service.submit(f"echo seen; setsid sleep {mark} & sleep {mark}")
    keeper = await service.running(job)
    await until(lambda: len(marked(f"sleep\0{mark}")) == 2)
    service.signal(keeper, signal.SIGKILL)
    result = await service.result(job)
    assert (result["ending"], result["exit_code"], result["signal"]) == ("lost", None, None)
    assert str(keeper.pid) in result["detail"]
    assert "killed by signal 9" in result["detail"]
    assert result["stdout"] == "seen\n"
    assert not marked(f"sleep\0{mark}")
    assert (await service.run("echo next"))["stdout"] == "next\n"


@pytest.mark.parametrize("killed", ["keeper", "keeper and fork server", "all"])
async def test_s4_an_exit_that_was_seen_survives_its_keeper(service: Service, tmp_path: Path, killed: str) -> None:
    """kill -9 of a keeper that waits for what the command left behind: the true code, and the rest is ended."""
    leader, pid_file = tmp_path / "leader", tmp_path / "left"
    left_behind = f"sh -c 'trap \"\" TERM; echo $$ > {pid_file}; while :; do sleep 0.05; done' &"
    job = await service.submit(
        f"{left_behind} echo seen; echo $$ > {leader}; while [ ! -e {tmp_path}/go ]; do :; done; exit 7"
    )
    keeper = await service.running(job)
    await until(lambda: pid_file.exists() and pid_file.read_text() and leader.exists() and leader.read_text())
    fork_server = parent(keeper.pid)
    (tmp_path / "go").touch()
    await until(lambda: exit_is_recorded(service, job))
    if killed != "keeper":
        os.kill(fork_server, signal.SIGKILL)
    if killed == "all":
        await service.kill()
    service.signal(keeper, signal.SIGKILL)
    if killed == "all":
        await service.start()
    result = await service.result(job)
    assert (result["ending"], result["exit_code"], result["stdout"]) == ("exited", 7, "seen\n")
    assert str(keeper.pid) in result["detail"]
    await until(lambda: not lives(int(pid_file.read_text())))


def exit_is_recorded(service: Service, job: int) -> bool:
    """Return whether a keeper has recorded the exit of the job's command, and not its end yet."""
    directory = os.open(service.state_dir / "slots", os.O_RDONLY)
    try:
        for name in os.listdir(directory):
            if name.endswith(".slot"):
                slot = SlotReader(directory, name)
                records = slot.records()
                slot.close()
                if any(record.job == job and record.exit for record in records):
                    return True
    finally:
        os.close(directory)
    return False


@pytest.mark.real_exec
async def test_a_killed_fork_server_costs_nothing(service: Service, tmp_path: Path) -> None:
    """kill -9 of the fork server: what runs goes on, new jobs run, another fork server is there."""
    gate = tmp_path / "gate"
    job = await service.submit(f"while [ ! -e {gate} ]; do sleep 0.01; done; exit 5")
    keeper = await service.running(job)
    fork_server = parent(keeper.pid)
    os.kill(fork_server, signal.SIGKILL)
    await until(lambda: not lives(fork_server))
    results = [await service.run(f"exit {code}") for code in range(12)]
    assert [result["exit_code"] for result in results] == list(range(12))
    # A new keeper needs a new fork server: kill one keeper, and see that work goes on.
    service.signal(next(k for k in service.keepers() if k != keeper), signal.SIGKILL)
    assert (await service.run("echo on"))["stdout"] == "on\n"
    gate.touch()
    assert (await service.result(job))["exit_code"] == 5


@pytest.mark.parametrize("with_server", [False, True])
async def test_keeper_and_fork_server_killed_leave_no_command(service: Service, with_server: bool) -> None:
    """With keeper and fork server dead, the job's processes are found by its mark: `lost`, and no process is left.

    Those that removed the mark are found by their session, or as children of a marked one.
    """
    mark = f"5{os.getpid()}.{2 + with_server}"
    without_mark = f"env -i sleep {mark} & env -i setsid sleep {mark} & (env -i sleep {mark} &)"
    job = await service.submit(f"{without_mark}; setsid sleep {mark} & sleep {mark}")
    keeper = await service.running(job)
    await until(lambda: len(marked(f"sleep\0{mark}")) == 5)
    os.kill(parent(keeper.pid), signal.SIGKILL)
    if with_server:
        await service.kill()
    service.signal(keeper, signal.SIGKILL)
    if with_server:
        await service.start()
    result = await service.result(job)
    assert (result["ending"], result["exit_code"]) == ("lost", None)
    assert not marked(f"sleep\0{mark}")


@pytest.mark.each_process
async def test_a_stopped_keeper_is_not_judged(service: Service, tmp_path: Path) -> None:
    """While a keeper holds its lock its job is not judged, however silent it is; the end is the true one."""
    gate = tmp_path / "gate"
    job = await service.submit(f"while [ ! -e {gate} ]; do sleep 0.01; done; exit 3")
    keeper = await service.running(job)
    service.signal(keeper, signal.SIGSTOP)
    await service.restart()
    gate.touch()
    assert (await service.run("echo meanwhile"))["stdout"] == "meanwhile\n"
    assert (await service.status(job))["state"] == "running"
    service.signal(keeper, signal.SIGCONT)
    assert (await service.result(job))["exit_code"] == 3


@pytest.mark.each_process
async def test_a_cancel_requested_before_a_restart_is_carried_out_after_it(service: Service) -> None:
    """A cancel is a row: a server that died before it reached the keeper leaves it to the next one."""
    job = await service.submit("sleep 600")
    keeper = await service.running(job)
    service.signal(keeper, signal.SIGSTOP)
    status, _, body = await service.ask("POST", f"/api/jobs/{job}/cancel")
    assert (status, body["cancelling"]) == (202, True)
    await service.restart()
    service.signal(keeper, signal.SIGCONT)
    assert (await service.result(job))["ending"] == "cancelled"


async def test_s1_another_boot_loses_what_ran_and_keeps_what_ended(service: Service) -> None:
    """After a reboot: a whole end record counts, the rest of the running is `lost`, the queued stay queued."""
    await service.stop()
    await service.start(SUPERVISOR__MAX_RUNNING=2)
    ended, killed = [await service.submit("echo out; sleep 0.2; exit 9"), await service.submit("sleep 600")]
    queued = await service.submit("echo fresh")
    keepers = [await service.running(ended), await service.running(killed)]
    await service.kill()
    await until(lambda: not lives(keepers[0].pid))
    service.signal(keepers[1], signal.SIGKILL)
    await until(lambda: not lives(keepers[1].pid))
    _pretend_another_boot(service)
    await service.start()
    results = [await service.result(job) for job in (ended, killed, queued)]
    assert [r["ending"] for r in results] == ["exited", "lost", "exited"]
    assert (results[0]["exit_code"], results[0]["stdout"]) == (9, "out\n")
    assert "the host was restarted" in results[1]["detail"]
    assert results[2]["stdout"] == "fresh\n"


def _pretend_another_boot(service: Service) -> None:
    """Change history and slots as if another boot had made the claims."""
    tokens = [token for (token,) in service.execute("SELECT token FROM jobs WHERE state = 'running'")]
    service.execute("UPDATE jobs SET token = '00000000' || substr(token, 9) WHERE state = 'running' RETURNING id")
    for slot in (service.state_dir / "slots").glob("*.slot"):
        whole = slot.read_bytes()
        for token in tokens:
            whole = _replaced(whole, token.encode(), b"00000000" + token.encode()[8:])
        slot.write_bytes(whole)


def _replaced(whole: Any, old: Any, new: Any) -> Any:
    # The blocks carry a CRC: put them together again.
    data = bytearray(whole.replace(old, new))
    for record in range(PAGE_SIZE, len(data), (len(data) - PAGE_SIZE) // 2):
        for block in (0, 512, 1024):
            (length,) = struct.unpack_from("<I", data, record + block)
            if length:
                body = data[record + block + 8 : record + block + 8 + length]
                struct.pack_into("<I", data, record + block + 4, zlib.crc32(body))
    return bytes(data)


# What lies in the place of a slot and is none.
FOREIGN = {"link": lambda path: path.symlink_to("/etc/passwd"), "pipe": os.mkfifo, "directory": os.mkdir}


@pytest.mark.heavy
@pytest.mark.parametrize("damage", ["empty", "truncated", "garbage", "missing", *FOREIGN])
async def test_s7_one_damaged_slot_costs_one_job(service: Service, damage: Any) -> None:
    """A damaged slot makes its one job `lost`; the service starts, and the other jobs are unchanged."""
    good = await service.run("echo good")
    job = await service.submit("sleep 600")
    keeper = await service.running(job)
    await service.kill()
    service.signal(keeper, signal.SIGKILL)
    await until(lambda: not lives(keeper.pid))
    ((number,),) = service.execute("SELECT keeper FROM jobs WHERE id = ?", job)
    slot = service.state_dir / "slots" / f"{number}.slot"
    if damage == "missing":
        slot.unlink()
    elif damage in FOREIGN:
        slot.unlink()
        FOREIGN[damage](slot)
        FOREIGN[damage](slot.with_name("900.slot"))
    else:
        whole = slot.read_bytes()
        slot.write_bytes({"empty": b"", "truncated": whole[:5000], "garbage": os.urandom(len(whole))}[damage])
    await service.start()
    result = await service.result(job)
    assert (result["ending"], result["exit_code"]) == ("lost", None)
    _, _, again = await service.get(f"/api/results/{good['result_id']}")
    assert again["stdout"] == "good\n"
    assert (await service.run("echo on"))["stdout"] == "on\n"


@pytest.mark.each_process
@pytest.mark.real_exec
async def test_s10_a_result_can_be_read_again_and_after_a_restart(service: Service) -> None:
    """A result reads the same a second time, and after a restart."""
    first = await service.run("echo once; echo twice >&2; exit 4")
    _, _, second = await service.get(f"/api/results/{first['result_id']}")
    await service.restart()
    _, _, third = await service.get(f"/api/results/{first['result_id']}")
    assert first == second == third


async def test_a_slot_whose_keeper_was_killed_at_its_start_is_removed(service: Service) -> None:
    """A slot in which nothing was written yet, of whatever size, is no evidence of anything."""
    await service.kill()
    slots = service.state_dir / "slots"
    for number, size in ((8001, 0), (8002, SLOT_SIZE)):
        (slots / slot_name(number)).write_bytes(bytes(size))
    await service.start()
    await until(lambda: not [number for number in (8001, 8002) if (slots / slot_name(number)).exists()])
    assert not (slots / "aside").exists()


async def test_a_second_server_on_the_same_state_is_refused(service: Service) -> None:
    """The state directory has one server; a second one fails, names the first one's pid, and harms nothing."""
    second = Service(service.state_dir)
    with pytest.raises(AssertionError, match="did not start"):
        await second.start()
    assert str(service.runner.process.pid) in str(second.log)
    await second.session.close()
    assert (await service.run("echo unharmed"))["stdout"] == "unharmed\n"


async def test_stop_keep_leaves_jobs_running_and_logs_how_many(service: Service, tmp_path: Path) -> None:
    """SIGTERM with on_stop=keep exits within two seconds; the last log line counts the jobs and names their slots."""
    job = await service.submit(f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; exit 2")
    await service.running(job)
    follower = asyncio.create_task(service.get(f"/api/statuses/{job}/events"))
    await asyncio.sleep(0)
    assert await service.stop(seconds=2) == 0
    await follower
    last = [line for line in service.log if line.get("slots") == str(service.state_dir / "slots")][-1]
    assert service.log[-1] is last or IS_CLUSTER  # of two processes, the other may end later
    assert last["jobs"] == 1
    await service.start()
    (tmp_path / "go").touch()
    assert (await service.result(job))["exit_code"] == 2


@pytest.mark.heavy
async def test_stop_drain_waits_for_what_runs_and_starts_nothing(service: Service, tmp_path: Path) -> None:
    """SIGTERM with on_stop=drain sees running jobs through and leaves the queued ones for the next start."""
    await service.stop()
    await service.start(SUPERVISOR__ON_STOP="drain", SUPERVISOR__MAX_RUNNING=1)
    running = await service.submit(f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; exit 6")
    await service.running(running)
    queued = await service.submit("exit 8")
    service.terminate()
    await until(lambda: any(line["event"] == "waiting for running jobs" for line in service.log))
    (tmp_path / "go").touch()
    assert await service.ended() == 0
    await until(lambda: not service.keepers())
    await service.start()
    assert (await service.result(running))["exit_code"] == 6
    assert (await service.result(queued))["exit_code"] == 8


async def test_stop_cancel_ends_what_runs(service: Service) -> None:
    """SIGTERM with on_stop=cancel cancels running jobs before it exits."""
    await service.stop()
    await service.start(SUPERVISOR__ON_STOP="cancel")
    job = await service.submit("sleep 600")
    await service.running(job)
    assert await service.stop() == 0
    await service.start()
    assert (await service.result(job))["ending"] == "cancelled"


async def test_e9_a_followers_disconnect_does_not_hurt_the_job(service: Service, tmp_path: Path) -> None:
    """A client that follows and goes away changes nothing for the job."""
    job = await service.submit(f"echo on; while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; echo off")
    response = await service.session.get(f"{service.url}/api/statuses/{job}/events")
    await response.content.readuntil(b"stdout")
    response.close()
    (tmp_path / "go").touch()
    assert (await service.result(job))["stdout"] == "on\noff\n"


async def test_a_retired_keepers_slot_is_removed_after_a_restart(service: Service, tmp_path: Path) -> None:
    """Keepers with left children take no jobs any more; their slots are removed when the children are gone."""
    await service.run(f"(while [ ! -e {tmp_path}/go ]; do sleep 0.01; done) & exit 0", leave_children=True)
    (keeper,) = [k for k in service.keepers() if len(_children(k.pid))]
    await service.restart()
    assert lives(keeper.pid)
    slots = set((service.state_dir / "slots").glob("*.slot"))
    (tmp_path / "go").touch()
    await until(lambda: not lives(keeper.pid))
    await until(lambda: slots - set((service.state_dir / "slots").glob("*.slot")))


@pytest.mark.sqlite(reason="claims are written into the file by hand")
async def test_s3_claims_of_one_keeper_are_all_judged_by_its_slot(service: Service) -> None:
    """Claims of a keeper that exits late, and started none, are requeued: no slot is removed too early."""
    await service.run("true")
    await service.ask("POST", "/api/queues/pause")
    keepers = _keepers_by_number(service)
    claims = [(number, new_claim_token(), await service.submit("exit 4")) for number in keepers for _ in range(2)]
    for keeper in keepers.values():
        service.signal(keeper, signal.SIGSTOP)
    await service.kill()
    with contextlib.closing(sqlite3.connect(service.state_dir / "history.db")) as db:
        db.executemany("UPDATE jobs SET state = 'running', keeper = ?, token = ?, started = 1 WHERE id = ?", claims)
        db.execute("DELETE FROM paused")
        db.commit()
    await service.start()
    await until(lambda: any(line["event"] == "jobs adopted" for line in service.log))
    await service.status(claims[0][2])  # by now each claim has a connection to its keeper
    for keeper in keepers.values():
        service.signal(keeper, signal.SIGCONT)
    assert {(await service.result(job))["exit_code"] for _, _, job in claims} == {4}
    buried = {slot_name(number) for number in keepers}
    await until(lambda: not buried & set(os.listdir(service.state_dir / "slots")))


def _keepers_by_number(service: Service) -> Any:
    """Return the living keepers, by the numbers of their slots."""
    keepers, found = service.keepers(), {}
    directory = os.open(service.state_dir / "slots", os.O_RDONLY)
    try:
        for path in (service.state_dir / "slots").glob("*.slot"):
            with contextlib.closing(SlotReader(directory, path.name)) as slot:
                header = slot.header()
                if header and ProcessIdentity.from_dict(header["identity"]) in keepers:
                    found[int(path.stem)] = ProcessIdentity.from_dict(header["identity"])
    finally:
        os.close(directory)
    return found


def _is_longer(found: Any, count: int) -> bool:
    return len(found) >= count


def _children(pid: int) -> list[int]:
    return [each for each in children(pid) if lives(each)]


async def test_a_kill_of_every_process_of_the_unit_loses_what_ran_and_keeps_what_waited(
    service: Service, tmp_path: Path
) -> None:
    """`systemctl kill -s KILL`: running jobs are `lost`, queued ones run once, and nothing is left."""
    service.settings["SUPERVISOR__MAX_RUNNING"] = 2
    await service.restart()
    pids = tmp_path / "pids"
    running = [await service.submit(f"echo $$ >>{pids}; sleep 300 & wait") for _ in range(2)]
    await until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    queued = await service.submit(f"echo ran >>{tmp_path}/ran")
    commands = {int(pid) for pid in pids.read_text().split()}
    keepers = {service.process.pid, service.runner.process.pid, *marked(str(service.state_dir))} - commands
    for pid in [*keepers, *commands]:  # a keeper that is left records the end of its command
        with contextlib.suppress(ProcessLookupError):  # a spare keeper ends with its server
            os.kill(pid, signal.SIGKILL)
    await service.ended()
    await service.start()
    assert [(await service.result(job))["ending"] for job in running] == ["lost", "lost"]
    assert (await service.result(queued))["exit_code"] == 0
    assert (tmp_path / "ran").read_text() == "ran\n"
