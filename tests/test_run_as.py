"""Commands of another user: their identity, their isolation from the keeper, and that all else holds."""

import contextlib
import ctypes
import json
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shellrunner.config import load
from shellrunner.keeper import fork_exec, process_tree
from shellrunner.keeper.program import Program, StartStep, StepFailed
from shellrunner.keeper.protocol import PROTOCOL
from shellrunner.keeper.slot import SlotReader
from shellrunner.model import JobSpec, Retries, Submitter
from shellrunner.service.state_dir import prepare
from shellrunner.supervisor import KeeperPool
from shellrunner.supervisor.fork_server_connection import ForkServerLauncher, attach
from shellrunner.supervisor.users import NoSuchUser, UserAccounts
from tests.support.histories import opened
from tests.support.keepers import ForkServer, Talk, give, keep, kept, record_of, start, surroundings
from tests.support.processes import lives, marked
from tests.support.service import InProcess, Service
from tests.support.users import NOBODY, PROBE, as_root
from tests.support.waiting import until

pytestmark = as_root

UID = 61_234  # nobody has it, so nobody else's processes count towards its limits
USER: dict[str, Any] = {"uid": UID, "gid": 61_235, "groups": [61_235, 61_236, 61_237]}


# The keeper ---------------------------------------------------------------------------------------------------------


def test_a_command_is_its_user_and_nothing_of_root_is_left(keeping: tuple[Talk, SlotReader]) -> None:
    """All three ids of user and group are the user's, the groups are its own, and it has no capability."""
    end, data = keep(*keeping, 1, "cat /proc/self/status; id -G; echo ok > /proc/self/comm", user=USER)
    lines = dict(line.split(":", 1) for line in data.decode().splitlines() if ":" in line)
    assert lines["Uid"].split() == [str(UID)] * 4
    assert lines["Gid"].split() == ["61235"] * 4
    assert lines["Groups"].split() == ["61235", "61236", "61237"]
    assert {lines[name].strip() for name in ("CapEff", "CapPrm", "CapAmb")} == {"0" * 16}
    assert (end["exit_code"], data.splitlines()[-1]) == (0, b"61235 61236 61237")


# Finds a key by its name, puts one of its own beside it, and prints what it read of the first.
KEYS = r"""
import ctypes
syscall, read = ctypes.CDLL(None).syscall, ctypes.create_string_buffer(32)
syscall(250, 11, syscall(249, b"user", b"shellrunner-test", None, 0), read, 32, 0)
syscall(248, b"user", b"shellrunner-test", b"planted", 7, -3)
print(read.value.decode() or None)
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of system calls are those of x86-64")
def test_keys_are_out_of_its_reach(tmp_path: Path) -> None:
    """A command of another user reads no key of the service's session, nor what the user before it left there."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(250, 1, None) < 0:
        pytest.skip(f"no keyrings here: {os.strerror(ctypes.get_errno())}")
    assert libc.syscall(248, b"user", b"shellrunner-test", b"secret", 6, -3) > 0
    server = ForkServer(tmp_path)
    with kept(server) as (keeper, slot):
        argv = ["/usr/bin/env", "python3", "-c", KEYS]
        users = [USER, USER | {"uid": UID + 1}, USER]
        outputs = [keep(keeper, slot, job, "", argv=argv, user=user)[1] for job, user in enumerate(users, 1)]
        own = keep(keeper, slot, 9, "", argv=argv)[1]
    server.end()
    assert outputs == [b"None\n"] * 3
    assert own == b"secret\n", "the service's own commands have its session's, so the others would notice"


@pytest.mark.parametrize("more", [{}, {"tty": [24, 80]}, {"stdin": "x"}, {"stream": True}, {"merge_stderr": True}])
def test_surroundings_are_as_for_everybody(keeping: tuple[Talk, SlotReader], more: dict[str, Any]) -> None:
    """Signals, descriptors, session, directory, environment, streams and umask: only the user differs."""
    # Both by fork: glibc's posix_spawn ignores two signals of its own.
    limits = {"open_files": 64}
    seen = [surroundings(*keeping, job, user=user, limits=limits, **more) for job, user in enumerate((None, USER), 1)]
    assert seen[0] == seen[1]
    assert seen[0][0] == 7


def test_its_streams_can_be_opened_again(keeping: tuple[Talk, SlotReader]) -> None:
    """/dev/stdout, /dev/stderr and /dev/stdin are the user's own, whatever is behind them."""
    script = "cat /dev/stdin > /dev/stdout; echo oops > /dev/stderr"
    end, data = keep(*keeping, 1, script, user=USER, stdin="привет\n")
    assert (data.decode(), end["stdout"], end["stderr"]) == ("привет\noops\n", 13, 5)
    start(keeping[0], 2, script, user=USER, stream=True)
    give(keeping[0], b"later\n", job=2, end=True)
    assert keeping[0].receive()["say"] == "ended"
    assert record_of(keeping[1], 2).end["stdout"] == 6
    end, data = keep(*keeping, 3, "cat /dev/stdin; echo end", user=USER)
    assert (end["exit_code"], data) == (0, b"end\n")


def test_its_terminal_is_its_own(keeping: tuple[Talk, SlotReader]) -> None:
    """The terminal belongs to the user and its session, and can be opened again under both of its names."""
    script = 'echo a > /dev/tty; echo b > "$(tty)"; stat -c %u "$(tty)"; stty size; read x; echo "<$x>"'
    end, data = keep(*keeping, 1, script, user=USER, tty=[40, 120], stdin="typed\n")
    assert data.decode().split() == ["a", "b", str(UID), "40", "120", "<typed>"]
    assert end["exit_code"] == 0


@pytest.mark.parametrize(
    ("more", "detail"),
    [
        ({"cwd": "{}/closed"}, "cannot enter the directory {}/closed: Permission denied"),
        ({"cwd": "{}/no"}, "cannot enter the directory {}/no: No such file or directory"),
        ({"argv": ["{}/mine"]}, "cannot start {}/mine: Permission denied"),
        ({"argv": ["{}/closed/program"]}, "cannot start {}/closed/program: Permission denied"),
        ({"argv": ["program"], "env": {"PATH": "{}/closed"}}, "cannot start program: not found along PATH"),
        ({"argv": ["mine"], "env": {"PATH": "{}"}}, "cannot start mine: not found along PATH"),
        ({"argv": ["/bin/sh", "x" * 200_000]}, "cannot start /bin/sh: Argument list too long"),
        ({"user": USER | {"uid": -1}}, "cannot become the user with uid -1: Operation not permitted"),
        ({"user": USER | {"gid": -1}}, f"cannot become the user with uid {UID}: Operation not permitted"),
        ({"user": USER | {"uid": 0}}, "cannot become the user with uid 0: Operation not permitted"),
    ],
)  # fmt: skip
def test_what_the_user_may_not_do_is_reported(
    keeping: tuple[Talk, SlotReader], open_path: Path, more: dict[str, Any], detail: str
) -> None:
    """Directory, program and PATH are accessed as the user; the detail has the failed step; no process is left."""
    (open_path / "closed").mkdir(0o700)
    for program in (open_path / "closed" / "program", open_path / "mine"):
        program.write_text("#!/bin/sh\necho ran\n")
        program.chmod(0o700)

    def there(value: Any) -> Any:
        return json.loads(json.dumps(value).replace("{}", str(open_path)))

    end, data = keep(*keeping, 1, "echo ran", **({"user": USER} | there(more)))
    assert (end["ending"], end["detail"], data) == ("failed_to_start", there(detail), b"")
    assert not process_tree.descendants(keeping[0].hello["identity"]["pid"])


def test_it_reaches_neither_its_witness_nor_what_that_writes(
    keeping: tuple[Talk, SlotReader], fork_server: ForkServer
) -> None:
    """The keeper, its slot and its state directory are out of reach: no signal, no memory, no descriptor, no file."""
    keeper = keeping[0].hello["identity"]["pid"]
    fork_server.state.chmod(0o700)
    pids = [str(pid) for pid in (keeper, fork_server.process.pid, os.getpid())]
    probe = ["/usr/bin/env", "python3", "-c", PROBE]
    end, data = keep(*keeping, 1, "", argv=[*probe, *pids], user=USER)
    assert (end["exit_code"], data.decode().splitlines()) == (0, pids)
    script = f"for s in 0 9 19; do kill -$s {keeper} {fork_server.process.pid} && echo reached; done;"
    script += f"cat {fork_server.state}/slots/1.slot; ls {fork_server.state}; ls -R /proc/{keeper}/cwd/; true"
    end, data = keep(*keeping, 2, script, user=USER)
    assert (end["exit_code"], end["stdout"]) == (0, 0), data
    assert data.count(b"ermi") == 9, data  # Permission denied, Operation not permitted
    with subprocess.Popen(["/bin/sleep", "60"]) as victim:
        _, data = keep(*keeping, 3, "", argv=[*probe, str(victim.pid)])
        victim.kill()
    assert len(data.split()) > 10, "root reaches nearly all of it: the probe would notice"


def test_a_keeper_is_itself_again_afterwards(keeping: tuple[Talk, SlotReader], fork_server: ForkServer) -> None:
    """A keeper runs the next command as itself, in its own directory, with the descriptors it had and no child."""
    keeper, slot = keeping
    pid = keeper.hello["identity"]["pid"]
    before = sorted(os.listdir(f"/proc/{pid}/fd"))
    kinds: list[dict[str, Any]] = [
        {"command": "true"},
        {"command": "true", "tty": [24, 80]},
        {"command": "cat", "stdin": "text"},
        {"command": "true", "argv": ["/nothing"]},
        {"command": "kill -9 $$"},
        {"command": "true", "cwd": "/root/closed"},
        {"command": "true", "user": USER | {"uid": -1}},
    ]
    for job, kind in enumerate(kinds * 2, 1):
        keep(*keeping, job, **({"user": USER} | kind))
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == before
    assert not process_tree.descendants(pid)
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    _, data = keep(keeper, slot, 99, "id -u")
    assert data == b"0\n"


@pytest.mark.parametrize("end", ["itself", "cancel", "timeout"])
async def test_nothing_of_it_outlives_it(keeping: tuple[Talk, SlotReader], end: str) -> None:
    """A process in another session, or forked twice, is ended, however the command ends."""
    number = f"7{os.getpid()}{len(end)}"
    last = "sleep 0.2" if end == "itself" else f"sleep {number}"
    script = f"setsid sleep {number} & (setsid sh -c 'sleep {number} & sleep {number}' &); sleep {number} & {last}"
    start(keeping[0], 1, script, user=USER, timeout=0.3 if end == "timeout" else None, grace=0.1)
    if end == "cancel":
        await until(lambda: len(marked(f"sleep\0{number}\0")) == 5)
        keeping[0].send(do="cancel", job=1, token="t")
    assert keeping[0].receive()["say"] == "ended"
    ending = record_of(keeping[1], 1).end
    assert ending["ending"] == {"itself": "exited", "cancel": "cancelled", "timeout": "timed_out"}[end]
    assert marked(f"sleep\0{number}\0") == []


def test_children_are_left_if_that_is_asked_for(keeping: tuple[Talk, SlotReader]) -> None:
    """With leave_children a daemon of the user lives on, may write, and its keeper drains it."""
    script = "(trap '' HUP; sleep 0.3; echo late; echo $? > /dev/stderr; exec sleep 300) & echo $!"
    end, data = keep(*keeping, 1, script, user=USER, leave_children=True)
    pid = int(data.split()[0])
    assert end["exit_code"] == 0
    assert os.stat(f"/proc/{pid}").st_uid == UID
    os.kill(pid, signal.SIGKILL)


async def test_signals_reach_its_group(keeping: tuple[Talk, SlotReader]) -> None:
    """A signal sent by the API reaches a command of another user."""
    start(keeping[0], 1, "trap 'echo got; exit 5' USR1; echo ready; while :; do sleep 0.01; done", user=USER)
    await until(lambda: (record := keeping[1].find(1, "t")) and record.progress.get("stdout"))
    keeping[0].send(do="signal", job=1, token="t", signum=int(signal.SIGUSR1))
    assert keeping[0].receive()["say"] == "ended"
    assert record_of(keeping[1], 1).end["exit_code"] == 5


def test_limits_are_the_users(keeping: tuple[Talk, SlotReader]) -> None:
    """Processes are counted for the user alone: a limit below root's number is enough, and holds."""
    user = USER | {"uid": 100_000 + os.getpid()}  # who has no processes of other tests
    script = "ulimit -n; sleep 2 & sleep 2 & sleep 2 & sleep 2 & wait"
    _, data = keep(*keeping, 1, script, user=user, limits={"processes": 3, "open_files": 33, "memory_bytes": 1 << 28})
    assert data.startswith(b"33\n")
    assert b"fork" in data.lower()
    end, _ = keep(*keeping, 2, "sleep 0 & sleep 0 & wait", user=user, limits={"processes": 3})
    assert end["exit_code"] == 0


def test_every_byte_is_stored(keeping: tuple[Talk, SlotReader], fork_server: ForkServer) -> None:
    """Output beyond the slot is stored to the byte."""
    end, _ = keep(*keeping, 1, "seq 1 50000; seq 1 1000 >&2", user=USER)
    text = "".join(f"{number}\n" for number in range(1, 50_001))
    assert (end["stdout"], end["stderr"]) == (len(text), 3893)
    (spilled,) = (fork_server.state / "runs").iterdir()
    assert spilled.stat().st_size == len(text) + 3893 - 65_536


@pytest.mark.parametrize(
    ("argv", "cwd", "failed"),
    [
        (b"true", b"/", None),
        (b"nothing", b"/", StartStep.FIND_PROGRAM),
        (b"true", b"/no", StartStep.ENTER_DIRECTORY),
        (b"/etc", b"/", StartStep.EXECUTE),
    ],
)
def test_nothing_is_imported_after_the_change_of_user(audited: Any, argv: bytes, cwd: bytes, failed: Any) -> None:
    """After the change of user the child opens no file of ours, so the user need not be able to read Python's."""
    program = Program([argv], {b"PATH": b"/nowhere:/usr/bin:/bin"}, cwd)
    step = None
    try:
        pid = fork_exec.spawn(
            program,
            actions=(),
            default_signals=(),
            limits=fork_exec.requested_limits({"open_files": 9}),
            user=fork_exec.TargetUser(**USER),
        )
        os.waitpid(pid, 0)
    except StepFailed as failure:
        step = failure.step
    assert step is failed
    assert audited() == b""


@pytest.fixture
def audited() -> Iterator[Any]:
    """Yield a function that returns what children of this process open or import while they are another user."""
    reading, writing = os.pipe()
    parent, watched = os.getpid(), [True]

    def hook(event: Any, arguments: Any) -> None:
        if watched and event in ("import", "open", "compile") and os.getpid() != parent and os.getuid() != 0:
            os.write(writing, f"{event} {arguments[0]}\n".encode())

    sys.addaudithook(hook)  # which is there for good, and then says nothing
    os.set_blocking(reading, False)

    def opened() -> Any:
        os.write(writing, b".")
        return os.read(reading, 65_536).removesuffix(b".")

    yield opened
    watched.clear()
    os.close(reading)
    os.close(writing)


# The whole service --------------------------------------------------------------------------------------------------


async def submitted(service: Service, *specs: Any, by: Any) -> list[Any]:
    """Add jobs to the history of a service that is down; return their ids."""
    async with service.history() as store:
        return [(await store.add(spec, by=by)).id for spec in specs]


AS_NOBODY = Submitter("token:ci", "nobody")


async def test_a_job_runs_as_the_user_of_its_submitter(down: Service) -> None:
    """It has the user's ids, groups, home and names; the API shows who submitted it and as which user it runs."""
    script = 'id -un; id -Gn; echo "$HOME $USER $LOGNAME $SHELL"; pwd; umask'
    down.umask = 0o022
    (job,) = await submitted(down, JobSpec(command=script), by=AS_NOBODY)
    await down.start()
    shell = "/bin/sh" if os.path.basename(NOBODY.pw_shell) in ("nologin", "false", "") else NOBODY.pw_shell
    home = NOBODY.pw_dir if os.path.isdir(NOBODY.pw_dir) else "/"
    groups = " ".join(map(str, os.getgrouplist("nobody", NOBODY.pw_gid)))
    result = await down.result(job)
    lines = result["stdout"].splitlines()
    assert [lines[0], *lines[2:]] == ["nobody", f"{NOBODY.pw_dir} nobody nobody {shell}", home, "0022"]
    assert len(lines[1].split()) == len(groups.split())
    _, _, shown = await down.get(f"/api/jobs/{job}")
    assert (shown["submitter"], shown["run_as"]) == ("token:ci", "nobody")
    own = await down.submit("id -u")
    _, _, shown = await down.get(f"/api/jobs/{own}")
    assert (shown["submitter"], shown["run_as"]) == (f"uid:{os.getuid()}", None)
    assert (await down.result(own))["stdout"] == "0\n"


@pytest.mark.heavy
async def test_a_killed_service_continues_with_it(down: Service, open_path: Path) -> None:
    """A job of another user goes on while the server is dead, and ends with its own code and every byte."""
    flag = open_path / "flag"
    command = f"echo one; while ! test -e {flag}; do sleep 0.02; done; id -un; exit 9"
    spec = JobSpec(command=command)
    (job,) = await submitted(down, spec, by=AS_NOBODY)
    await down.start()
    await down.running(job)
    await down.kill()
    flag.touch()
    await down.start()
    result = await down.result(job)
    assert (result["ending"], result["exit_code"], result["stdout"]) == ("exited", 9, "one\nnobody\n")


@pytest.mark.heavy
async def test_what_a_killed_keeper_left_of_another_user_is_ended(down: Service) -> None:
    """With keeper, fork server and server dead, the next server finds the user's processes by their mark."""
    mark = f"MARK={down.state_dir}"  # other tests have jobs of the same number at the same time
    spec = JobSpec(command="setsid sleep 600 & sleep 600 & wait", env={"MARK": str(down.state_dir)})
    (job,) = await submitted(down, spec, by=AS_NOBODY)
    await down.start()
    keeper = await down.running(job)
    await until(lambda: len(processes_of(NOBODY.pw_uid, mark)) == 3)
    left = processes_of(NOBODY.pw_uid, mark)
    with open(f"/proc/{keeper.pid}/stat") as file:
        fork_server = int(file.read().rpartition(")")[2].split()[1])
    await down.kill()
    os.kill(fork_server, signal.SIGKILL)
    down.signal(keeper, signal.SIGKILL)
    await down.start()
    assert (await down.result(job))["ending"] == "lost"
    await until(lambda: not [pid for pid in left if lives(pid)])


def processes_of(uid: int, mark: str) -> list[int]:
    """Return the user's processes with this mark in their environment."""
    found = []
    for pid in marked(mark):
        with contextlib.suppress(OSError):  # it has just ended
            if os.stat(f"/proc/{pid}").st_uid == uid:
                found.append(pid)
    return found


@pytest.mark.heavy
async def test_a_user_that_no_longer_exists_is_reported(down: Service) -> None:
    """A job whose user is gone never starts, and its detail names the user; the next job is not affected."""
    gone, too = await submitted(down, *[JobSpec(command="id -u")] * 2, by=Submitter("t", "x-y"))
    (own,) = await submitted(down, JobSpec(command="id -u"), by=Submitter("t", "root"))
    await down.start()
    result = await down.result(gone)
    assert (result["ending"], result["detail"]) == ("failed_to_start", "cannot run as x-y: there is no such user")
    assert (await down.result(too))["ending"] == "failed_to_start"
    assert (await down.result(own))["stdout"] == "0\n", "root is the service's own user"


@pytest.mark.heavy
async def test_another_attempt_runs_as_the_same_user(down: Service) -> None:
    """A retry runs as the same user as the first attempt."""
    spec = JobSpec(command="id -un; exit 1", retries=Retries(max=1))
    (job,) = await submitted(down, spec, by=AS_NOBODY)
    await down.start()
    await down.result(job)
    _, _, output = await down.get(f"/api/statuses/{job}/output")
    assert output == b"nobody\nnobody\n"


@pytest.mark.heavy
async def test_a_cancel_while_the_user_is_looked_up_is_obeyed(down: Service) -> None:
    """However early a cancel comes, a job of another user is cancelled or was never started; the service lives."""
    jobs = await submitted(down, *[JobSpec(command="sleep 600")] * 30, by=AS_NOBODY)
    await down.start(SUPERVISOR__MAX_RUNNING=8)
    for job in jobs:
        await down.ask("POST", f"/api/jobs/{job}/cancel")
    assert {(await down.result(job))["ending"] for job in jobs} == {"cancelled"}


async def test_a_keeper_of_an_earlier_version_gets_no_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A keeper that would ignore `run_as` gets no command, and the log says what to do."""
    monkeypatch.setattr("shellrunner.supervisor.keeper_pool.PROTOCOL", PROTOCOL + 1)
    launcher = ForkServerLauncher.from_process(prepare(tmp_path))
    process, connection = launcher.launch()
    forks = await attach(process, connection)
    with (
        contextlib.closing(KeeperPool(launcher, {"history": "h" * 32, "program": "test"}, forks)) as keepers,
        pytest.raises(OSError, match="of an earlier version: restart the service"),
    ):
        await keepers.spawn()
    await until(lambda: process.poll() is not None)


async def test_a_user_is_remembered_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A removed user is found for at most a minute; one whose entry is not UTF-8 is rejected."""
    accounts = UserAccounts(load().jobs)
    known = await accounts.look_up("nobody")
    assert known.user is not None
    assert (known.user["uid"], known.user["gid"]) == (NOBODY.pw_uid, NOBODY.pw_gid)
    monkeypatch.setattr(pwd, "getpwnam", lambda name: {}[name])
    assert await accounts.look_up("nobody") is known
    monkeypatch.setattr(time, "monotonic", lambda clock=time.monotonic: clock() + 61)
    with pytest.raises(NoSuchUser, match="cannot run as nobody: there is no such user"):
        await accounts.look_up("nobody")
    odd = pwd.struct_passwd(("odd", "x", 7, 7, "", "/home/\udcff", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwnam", lambda _: odd)
    with pytest.raises(NoSuchUser, match="cannot run as odd: the user's entry must be valid UTF-8"):
        await accounts.look_up("odd")


@pytest.mark.sqlite(reason="a service in the test's process is a single host")
@pytest.mark.parametrize("home", ["/home/" + "x" * 300, "mounted"])
async def test_a_home_that_root_cannot_look_at_harms_nobody(
    tmp_path: Path, open_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    """With any kind of home directory, as on FUSE, the service lives, and only that user's commands may fail."""
    state = tmp_path / "state"
    async with opened(state) as store:
        job = (await store.add(JobSpec(command="pwd"), by=Submitter("token:odd", "odd"))).id
    with mounted(open_path) if home == "mounted" else contextlib.nullcontext(home) as place:
        odd = pwd.struct_passwd(("odd", "x", UID, UID, "", place, "/bin/sh"))
        monkeypatch.setattr(pwd, "getpwnam", lambda _: odd)
        async with InProcess(state) as service:
            result = await service.result(job)
            assert (await service.run("echo fine"))["stdout"] == "fine\n"
    if home == "mounted":
        detail = f"cannot enter the directory {place}: Transport endpoint is not connected"
        assert (result["ending"], result["detail"]) == ("failed_to_start", detail)
    else:
        assert result["stdout"] == "/\n"


@contextlib.contextmanager
def mounted(place: Any) -> Iterator[str]:
    """Yield a directory that `UID` has mounted, so that root may not even look at it; nobody serves it any more."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        device = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"no FUSE here: {error}")
    options = f"fd={device},rootmode=40000,user_id={UID},group_id={UID}"
    failed = libc.mount(b"test", os.fsencode(place), b"fuse", 0, options.encode())
    os.close(device)
    if failed:
        pytest.skip(f"nothing can be mounted here: {os.strerror(ctypes.get_errno())}")
    try:
        yield str(place)
    finally:
        libc.umount2(os.fsencode(place), 2)  # MNT_DETACH
