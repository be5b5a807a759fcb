"""Isolation: a job can see none of the service's secrets, memory, descriptors or files."""

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shellrunner.errors import StoreUnavailable
from shellrunner.service.state_dir import prepare
from tests.support.processes import parent
from tests.support.selected_service import IS_CLUSTER
from tests.support.service import Service
from tests.support.users import NOBODY, ORDINARY, PROBE, UNREACHABLE, as_others, as_root, as_user
from tests.support.waiting import until

pytestmark = pytest.mark.real_exec  # what can be seen of a process is also what it was started with
ROOT = Path(__file__).parent.parent
# What systemd and an operator put into the environment of a service.
ENVIRONMENT = {
    "LISTEN_PID": "1",
    "LISTEN_FDS": "0",
    "LISTEN_FDNAMES": "x",
    "INVOCATION_ID": "f" * 32,
    "WATCHDOG_USEC": "60000000",
    "JOURNAL_STREAM": "8:1234",
    "SYSTEMD_EXEC_PID": "1",
    "MAINPID": "1",
    "MANAGERPID": "1",
    "SHELLRUNNER_LOG__LEVEL": "info",
    "SHELLRUNNER_TOKEN": "secret",
    "SHELLRUNNER_CALLBACKS__SECRET": f"whsec_{'c2VjcmV0' * 4}",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "LD_LIBRARY_PATH": "/nowhere",
}


@pytest.mark.heavy
async def test_nothing_of_the_services_environment_is_in_a_jobs(down: Service, tmp_path: Path) -> None:
    """With all that systemd and operators set, a job has exactly the documented variables, and its keeper none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        for name in ("CREDENTIALS_DIRECTORY", "RUNTIME_DIRECTORY", "CONFIGURATION_DIRECTORY"):
            (tmp_path / name).mkdir()
            down.environment[name] = str(tmp_path / name)
        down.environment |= ENVIRONMENT | {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        await down.start()
        result = await down.run(argv=["env", "-0"])
        names = {entry.partition("=")[0] for entry in result["stdout"].split("\0") if entry}
        shipped = {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG"}
        assert names == shipped | {"PYTHONUNBUFFERED", "SHELLRUNNER_JOB", "SHELLRUNNER_JOB_ID"}
        script = (
            "env; tr '\\0' '\\n' < /proc/$PPID/environ; tr '\\0' '\\n' < /proc/$PPID/cmdline; ls -l /proc/self/fd"
        )
        result = await down.run(script)
        assert "secret" not in result["stdout"]
        assert "socket:" not in result["stdout"]


@as_others
async def test_a_job_cannot_look_into_the_service(service: Service) -> None:
    """Of server, fork server and keeper a job of the same user reads neither environment, memory nor descriptors,
    and can trace none of them; what it could do to any other of its processes."""
    keeper = await service.running(await service.submit("exec sleep 60"))
    fork_server = parent(keeper.pid)
    assert parent(fork_server) == service.runner.process.pid
    pids = [str(pid) for pid in (service.runner.process.pid, fork_server, keeper.pid)]
    probe = ["/usr/bin/env", "python3", "-c", PROBE]
    result = await service.run(argv=[*probe, *pids])
    assert (result["exit_code"], result["stdout"].splitlines()) == (0, pids), result["stderr"]
    with subprocess.Popen(["/bin/sleep", "60"]) as victim:
        result = await service.run(argv=[*probe, str(victim.pid)])
        victim.kill()
    assert len(result["stdout"].split()) > 10, "it reaches what is not protected: the probe would notice"


@as_others
async def test_a_new_fork_server_cannot_be_looked_into_either(service: Service) -> None:
    """The successor of a killed one is protected as well."""
    keeper = await service.running(await service.submit("exec sleep 60"))
    first = parent(keeper.pid)
    os.kill(first, signal.SIGKILL)
    numbers = iter(range(100))

    async def another() -> Any:
        await service.run(f"echo {next(numbers)}")
        job = await service.submit("exec sleep 60")
        found = await service.running(job)
        if parent(found.pid) not in (first, 1) and parent(parent(found.pid)) == service.runner.process.pid:
            return found
        await service.ask("POST", f"/api/jobs/{job}/cancel")  # an earlier keeper's; its place is needed
        return None

    keeper = await until(another)
    result = await service.run(
        argv=["/usr/bin/env", "python3", "-c", PROBE, str(parent(keeper.pid)), str(keeper.pid)]
    )
    assert result["stdout"].split() == [str(parent(keeper.pid)), str(keeper.pid)]


@pytest.mark.heavy
async def test_jobs_keep_the_umask_and_the_service_has_its_own(down: Service) -> None:
    """What a job makes has the mode that it would have anywhere; what the service makes is for its user only."""
    down.umask = 0o027
    await down.start()
    job = await down.submit("umask; yes | head -c 300000 > /dev/stdout; sleep 60")
    await down.running(job)
    await until(lambda: [*(down.state_dir / "runs").glob(f"{job}*.out")], what="there is much output")
    modes = {path.relative_to(down.state_dir): path.lstat().st_mode for path in down.state_dir.rglob("*")}
    names = {str(path) for path in modes}
    journal = {name for name in names if name.startswith("claims-") and name.endswith(".journal")}
    assert bool(journal) == IS_CLUSTER
    history = journal if IS_CLUSTER else {"history.db", "history.db-wal", "history.db-shm", "ballast"}
    assert history | {"lock", "keepers.log"} < names
    assert any(name.endswith(".slot") for name in names)
    assert any(stat.S_ISSOCK(mode) for mode in modes.values())
    assert {str(path): oct(mode) for path, mode in modes.items() if mode & 0o077} == {}
    assert stat.S_IMODE(down.state_dir.stat().st_mode) == 0o700
    output = await until(lambda: _text(down, job))
    assert output.startswith(b"0027\n")


@pytest.mark.heavy
async def test_jobs_keep_the_umask_when_the_fork_server_is_another(down: Service) -> None:
    """A fork server that is started late, when the server has its own umask, has the one of the beginning too."""
    down.umask = 0o027
    await down.start(SUPERVISOR__MAX_RUNNING=100)  # more than keepers of the first one can take
    first = parent((await down.running(await down.submit("exec sleep 60"))).pid)
    os.kill(first, signal.SIGKILL)
    others = []

    async def of_another() -> bool:
        job = await down.submit("umask; exec sleep 60")
        keeper = await down.running(job)
        others.append(job)
        return parent(keeper.pid) not in (first, 1)

    await until(of_another)
    output = await until(lambda: _text(down, others[-1]))
    assert output == b"0027\n"


async def _text(service: Service, job: Any) -> Any:
    return (await service.get(f"/api/statuses/{job}/output"))[2]


# The state directory ------------------------------------------------------------------------------------------------


def test_other_users_access_to_a_state_directory_is_removed_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Directory, history and slots lose what others could do with them, and keep what is in them."""
    state = tmp_path / "state"
    for directory in (state, state / "slots"):
        directory.mkdir()
        directory.chmod(0o755)
    (state / "history.db-wal").write_bytes(b"content")
    (state / "history.db-wal").chmod(0o666)
    prepare(state)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (state, state / "slots", state / "runs")]
    assert modes == [0o700] * 3
    assert stat.S_IMODE((state / "history.db-wal").stat().st_mode) == 0o600
    assert (state / "history.db-wal").read_bytes() == b"content"
    changed = [
        record.__dict__["path"] for record in caplog.records if record.msg == "removed the access of other users"
    ]
    assert changed == [str(state), str(state / "slots"), str(state / "history.db-wal")]
    caplog.clear()
    prepare(state)
    assert not caplog.records


HISTORY = ["history.db", "history.db-journal", "history.db-wal", "history.db-shm"]


@pytest.mark.parametrize("name", [*HISTORY, "lock", "keepers.log", "ballast"])
def test_a_link_is_not_followed(tmp_path: Path, name: Any) -> None:
    """A link in the place of a file of ours is refused with a message, and its target is not changed."""
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    target.chmod(0o644)
    prepare(tmp_path / "state")
    for leads_to in (target, tmp_path / "nothing"):
        (tmp_path / "state" / name).unlink(missing_ok=True)
        (tmp_path / "state" / name).symlink_to(leads_to)
        with pytest.raises(StoreUnavailable, match=f"/state/{name} is a symbolic link, which is not followed"):
            prepare(tmp_path / "state")
    assert (target.read_bytes(), stat.S_IMODE(target.stat().st_mode)) == (b"precious", 0o644)
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("name", ["slots", "runs"])
def test_a_directory_behind_a_link_is_refused(tmp_path: Path, name: str) -> None:
    """A state directory with a link below it is refused: keepers would write elsewhere."""
    (tmp_path / "state").mkdir(0o700)
    (tmp_path / "elsewhere").mkdir(0o755)
    (tmp_path / "state" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreUnavailable, match=f"{name} is a symbolic link"):
        prepare(tmp_path / "state")


def test_the_directory_itself_may_be_behind_a_link(tmp_path: Path) -> None:
    """A link to the state directory, as systemd makes for a dynamic user, is accepted if the owner is right."""
    (tmp_path / "private").mkdir()
    (tmp_path / "state").symlink_to(tmp_path / "private")
    prepare(tmp_path / "state")
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o700


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_as_history_is_refused(tmp_path: Path, make: Any) -> None:
    """A pipe in the place of the history is refused, and does not block the service."""
    (tmp_path / "state").mkdir(0o700)
    make(tmp_path / "state" / "history.db")
    with pytest.raises(StoreUnavailable, match=r"history\.db is not a regular file"):
        prepare(tmp_path / "state")


@as_root
@pytest.mark.parametrize("name", ["", "slots", "history.db", "history.db-journal"])
def test_a_file_of_another_user_is_refused(tmp_path: Path, name: str) -> None:
    """Its owner could read and change it whatever its mode: the error names the owner and says what to do."""
    prepare(tmp_path / "state")
    for file in HISTORY[:2]:
        (tmp_path / "state" / file).touch(0o600)
    os.chown(tmp_path / "state" / name, NOBODY.pw_uid, -1)
    with pytest.raises(
        StoreUnavailable, match=f"belongs to another user .uid {NOBODY.pw_uid}., and the service runs as"
    ):
        prepare(tmp_path / "state")


@pytest.mark.heavy
def test_the_message_reaches_the_user_who_starts_it(tmp_path: Path) -> None:
    """`shellrunner serve` fails with it, and leaves everything as it is."""
    (tmp_path / "state").mkdir(0o700)
    (tmp_path / "state" / "history.db").symlink_to(tmp_path / "target")
    command = [sys.executable, "-m", "shellrunner", "serve", "--port", "0", "--state-dir", tmp_path / "state"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (1, "")
    assert "history.db is a symbolic link, which is not followed: remove it" in done.stderr
    assert not (tmp_path / "target").exists()


# As another user ----------------------------------------------------------------------------------------------------


# What only another user can see, and what uses most of the service: trees, restarts, orphans, limits.
SLICE = (
    "tests/test_hygiene.py::test_a_job_cannot_look_into_the_service",
    "tests/test_hygiene.py::test_a_new_fork_server_cannot_be_looked_into_either",
    "tests/test_life.py::test_p4_setsid_double_fork_and_nohup_do_not_escape",
    "tests/test_restart.py::test_s2_running_jobs_go_on_through_a_restart",
    "tests/test_restart.py::test_keeper_and_fork_server_killed_leave_no_command",
    "tests/test_limits.py::test_a_jobs_limits_override_the_configured_ones",
)


@pytest.mark.heavy
@as_root
@pytest.mark.timeout(180)
def test_all_of_this_holds_for_another_user(open_path: Path) -> None:
    """The service works as an unprivileged user, and is isolated from jobs of its own user."""
    home = open_path / "home"
    home.mkdir()
    os.chown(home, ORDINARY.pw_uid, ORDINARY.pw_gid)
    pytest_itself = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider"]
    command = as_user(ORDINARY, open_path / "shown", [*pytest_itself, f"--basetemp={home}/tests", *SLICE])
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=170
    )
    if done.returncode == UNREACHABLE:
        pytest.skip(f"other users cannot reach this Python, nor be shown it: {done.stderr}")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout
